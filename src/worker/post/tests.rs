//! Workers' posts in one process, with real mailboxes.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{Office, Peer, Post};
use crate::ipc::scoreboard::{self, Meter};
use crate::messages::{Messages, Subscription, packet};

const DEADLINE: Duration = Duration::from_secs(20);

/// A post that is open, and the end of its mailbox that others write to.
struct Worker {
    post: Arc<Post>,
    office: Office,
    messages: Messages,
    mailbox: OwnedFd,
}

/// Both ends, the one to write to first.
fn mailbox() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
}

fn worker(number: u64, peers: &[&Worker]) -> Worker {
    let (mailbox, reader) = mailbox();
    let peers = peers
        .iter()
        .map(|peer| (peer.post.worker, copy(&peer.mailbox)));
    let meter = Meter::new(scoreboard::create().unwrap(), 0);
    let (post, its) = Post::new(number, reader, peers.collect(), meter);
    Worker {
        messages: post.messages(),
        office: post.clone().open(its),
        post,
        mailbox,
    }
}

/// Another one takes a seat, or nobody, by what this one sees.
fn seat(worker: &Worker, seat: usize, other: u64) {
    let board = worker.post.meter.board();
    board.seats[seat].worker.store(other, Relaxed);
    board.header.youngest.fetch_max(other, Relaxed);
}

fn copy(fd: &OwnedFd) -> OwnedFd {
    fd.try_clone().unwrap()
}

async fn next(subscription: &mut Subscription) -> String {
    let message = timeout(DEADLINE, subscription.recv())
        .await
        .unwrap()
        .unwrap();
    String::from_utf8(message.bytes().to_vec()).unwrap()
}

/// The arbiter has told of it, and that has not been heard yet.
#[tokio::test]
async fn from_the_moment_on_at_which_a_worker_is_there_nothing_misses_it() {
    let old = worker(1, &[]);
    let mut asked = old.messages.subscribe("ask");
    let new = worker(2, &[&old]);
    let mut answers = new.messages.subscribe("answer");
    old.messages.publish("answer", "to nobody").unwrap();
    seat(&old, 7, 2);
    old.messages.publish("answer", "unasked").unwrap();
    assert!(old.post.meter.seat().has_unsent(7));
    new.messages.publish("ask", "who is there?").unwrap();
    assert_eq!(next(&mut asked).await, "who is there?");
    old.messages.publish("answer", "me").unwrap();
    // Once more: its mailbox could not be taken.
    assert!(!old.post.meet(2, None));
    for _ in 0..2 {
        assert!(old.post.meet(2, Some(copy(&new.mailbox))));
    }
    old.messages.publish("answer", "and that is all").unwrap();
    for answer in ["unasked", "me", "and that is all"] {
        assert_eq!(next(&mut answers).await, answer);
    }
    let end = Instant::now() + DEADLINE;
    while old.post.meter.seat().has_unsent(7) {
        assert!(Instant::now() < end, "everything is sent");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// It was forked in vain, or has died at once: its mailbox never comes.
#[tokio::test]
async fn who_is_gone_before_his_mailbox_comes_is_not_waited_for() {
    let here = worker(1, &[]);
    seat(&here, 7, 2);
    here.messages.publish("news", "one").unwrap();
    assert_eq!(here.post.peers().len(), 1);
    seat(&here, 7, 0);
    here.post.forget_gone();
    assert_eq!(here.post.peers().len(), 0);
    // Also where nothing else is forgotten: by what it is sent, and what sees to that ends.
    seat(&here, 7, 3);
    here.messages.publish("news", "two").unwrap();
    let peer = here.post.peers()[0].clone();
    seat(&here, 7, 0);
    let end = Instant::now() + DEADLINE;
    while !here.post.peers().is_empty() || peer.has_drainer() {
        assert!(Instant::now() < end, "it is noticed");
        here.messages.publish("news", "more").unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn who_leaves_tells_also_what_waits_for_a_mailbox_that_has_not_come() {
    let here = worker(1, &[]);
    seat(&here, 7, 2);
    here.messages.publish("news", "one").unwrap();
    let told = std::sync::Mutex::default();
    let tell = |worker, topics| {
        *told.lock().unwrap() = vec![(worker, topics)];
        true
    };
    here.office.close(None, tell).await;
    assert_eq!(
        told.into_inner().unwrap(),
        [(2, vec![("news".to_owned(), 1)])]
    );
}

/// Its word is lost: that must not stop what others say.
#[tokio::test]
async fn a_sender_that_is_never_introduced_is_heard() {
    let old = worker(1, &[]);
    let mut news = old.messages.subscribe("news");
    let stranger = worker(2, &[&old]);
    stranger.messages.publish("news", "one").unwrap();
    stranger.messages.publish("news", "two").unwrap();
    assert_eq!(next(&mut news).await, "one");
    assert_eq!(next(&mut news).await, "two");
}

#[tokio::test]
async fn who_does_not_read_any_more_is_forgotten() {
    let here = worker(1, &[]);
    for number in 2..50 {
        let (mailbox, reader) = mailbox();
        here.post.meet(number, Some(mailbox));
        drop(reader);
    }
    assert_eq!(
        here.post.peers().len(),
        1,
        "the last one is not known to be gone"
    );
    here.messages.publish("news", "nobody hears it").unwrap();
    assert_eq!(here.post.peers().len(), 0);
}

#[tokio::test]
async fn a_packet_of_another_time_is_passed_over() {
    let here = worker(1, &[]);
    let mut news = here.messages.subscribe("news");
    for packet in [
        &[9; 40][..],
        &[1],
        &[1, 200, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        nix::unistd::write(&here.mailbox, packet).unwrap();
    }
    let there = worker(2, &[&here]);
    there.messages.publish("news", "it rains").unwrap();
    assert_eq!(next(&mut news).await, "it rains");
}

/// An empty packet is no end, a count that is none stops nothing, and of one that is too long for this program is told
/// that something is missing.
#[tokio::test]
async fn nothing_that_comes_ends_the_hearing() {
    let here = worker(1, &[]);
    let mut news = here.messages.subscribe("news");
    let send = |packet: &[u8]| {
        let sent = send(here.mailbox.as_raw_fd(), packet, MsgFlags::MSG_DONTWAIT);
        assert_eq!(sent.unwrap(), packet.len());
    };
    send(&[]);
    send(&packet::missed(2, [("news", u64::MAX)].into_iter()).0);
    let lagged = timeout(DEADLINE, news.recv()).await.unwrap().unwrap_err();
    assert!(lagged.missed() > 1_000_000, "{lagged}");
    let mut long = packet::Outgoing::new(2, "news", b"the first of two")
        .record()
        .to_vec();
    let length = u32::try_from(packet::MOST).unwrap();
    long.extend([1, 4, 16, 0]);
    long.extend(length.to_le_bytes());
    long.resize(long.len() + packet::MOST, 7);
    send(&long);
    assert_eq!(next(&mut news).await, "the first of two");
    let lagged = timeout(DEADLINE, news.recv()).await.unwrap().unwrap_err();
    assert_eq!(lagged.missed(), 1);
    let there = worker(2, &[&here]);
    there.messages.publish("news", "it rains").unwrap();
    assert_eq!(next(&mut news).await, "it rains");
}

/// Nobody gets a turn in between.
#[tokio::test]
async fn a_burst_costs_nothing_those_who_keep_up() {
    let (there, here) = (worker(1, &[]), worker(2, &[]));
    here.post.meet(1, Some(copy(&there.mailbox)));
    let mut news = there.messages.subscribe("news");
    for number in 0..3_000 {
        here.messages.publish("news", number.to_string()).unwrap();
    }
    for number in 0..3_000 {
        assert_eq!(next(&mut news).await, number.to_string());
    }
}

/// Publishers, the task that sends what is late and the one that waits for room all run at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_what_several_threads_publish_each_message_is_heard_in_order_or_told() {
    const EACH: u64 = 5_000;
    let (there, here) = (worker(1, &[]), worker(2, &[]));
    here.post.meet(1, Some(copy(&there.mailbox)));
    let mut tasks = JoinSet::new();
    for topic in ["a", "b", "c", "d"] {
        let mut subscription = there.messages.subscribe(topic);
        let messages = here.messages.clone();
        tasks.spawn(async move {
            for number in 0..EACH {
                messages.publish(topic, number.to_string()).unwrap();
                if number % 500 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
        tasks.spawn(async move {
            let mut expected = 0;
            while expected < EACH {
                match timeout(DEADLINE, subscription.recv()).await.unwrap() {
                    Ok(message) => {
                        assert_eq!(message.bytes(), expected.to_string().as_bytes());
                        expected += 1;
                    }
                    Err(lagged) => expected += lagged.missed(),
                }
            }
            assert_eq!((expected, subscription.try_recv()), (EACH, None));
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

/// More than the mailbox holds: the rest goes out at the end.
#[tokio::test]
async fn what_is_late_is_sent_before_a_worker_leaves() {
    let (there, here) = (worker(1, &[]), worker(2, &[]));
    here.post.meet(1, Some(copy(&there.mailbox)));
    let mut news = there.messages.subscribe("news");
    for number in 0..1_000_u32 {
        here.messages
            .publish("news", format!("{number:>2000}"))
            .unwrap();
    }
    here.office.close(None, |_, _| true).await;
    for number in 0..1_000_u32 {
        assert_eq!(next(&mut news).await.trim(), number.to_string());
    }
}

#[tokio::test]
async fn a_worker_that_is_stuck_does_not_hold_one_that_leaves() {
    let here = worker(2, &[]);
    let (mailbox, _never_read) = mailbox();
    here.post.meet(1, Some(mailbox));
    for _ in 0..2_000 {
        here.messages.publish("news", vec![0; 1_000]).unwrap();
    }
    let begun = Instant::now();
    let tell = |_, _| true;
    here.office.close(Some(begun + DEADLINE), tell).await;
    assert!(begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
    assert!(
        nix::unistd::write(&here.mailbox, b"x").is_err(),
        "it reads no more"
    );
}

/// What it has got and what it is told that it has not got are all messages, by topic; what was not told leaves a mark.
#[tokio::test]
async fn who_leaves_tells_how_much_of_what_a_worker_has_not_got() {
    for is_told in [true, false] {
        let here = worker(2, &[]);
        let board = here.post.meter.board().clone();
        board.seats[7].worker.store(1, Relaxed);
        let (mailbox, reader) = mailbox();
        here.post.meet(1, Some(mailbox));
        here.messages.publish("news", "one").unwrap();
        assert!(!board.seats[0].has_unsent(7), "it is sent");
        for number in 0..2_000 {
            let topic = if number % 4 == 0 { "rare" } else { "news" };
            here.messages.publish(topic, vec![0; 1_000]).unwrap();
        }
        assert!(board.seats[0].has_unsent(7));
        let told = std::sync::Mutex::default();
        let tell = |worker, topics| {
            *told.lock().unwrap() = vec![(worker, topics)];
            is_told
        };
        here.office.close(None, tell).await;
        assert_eq!(board.seats[0].has_unsent(7), !is_told);
        let told = told.into_inner().unwrap();
        let [(1, topics)] = &told[..] else {
            panic!("{told:?}");
        };
        let mut counts = std::collections::BTreeMap::from([("news", 0), ("rare", 0)]);
        for (topic, count) in topics {
            *counts.get_mut(&**topic).unwrap() += count;
        }
        let mut buffer = vec![0; packet::MOST];
        while let Ok(length) = nix::unistd::read(&reader, &mut buffer) {
            for record in packet::Records(&buffer[..length]) {
                let packet::Incoming::Message { topic, .. } = record else {
                    panic!("{record:?}");
                };
                *counts.get_mut(topic).unwrap() += 1;
            }
        }
        assert_eq!(
            counts.into_iter().collect::<Vec<_>>(),
            [("news", 1_501), ("rare", 500)]
        );
    }
}

/// The seat of a worker that is gone is another one's.
#[tokio::test]
async fn a_mark_is_for_who_sits_there_now() {
    let here = worker(2, &[]);
    let board = here.post.meter.board().clone();
    let marked = || board.seats[0].has_unsent(7);
    let (mut mailboxes, mut readers) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (mailbox, reader) = mailbox();
        mailboxes.push(mailbox);
        readers.push(reader);
    }
    let fill = || {
        for _ in 0..1_000 {
            here.messages.publish("news", vec![0; 1_000]).unwrap();
        }
    };
    board.seats[7].worker.store(1, Relaxed);
    here.post.meet(1, mailboxes.pop());
    fill();
    assert!(marked());
    board.seats[7].worker.store(3, Relaxed);
    here.post.meet(3, mailboxes.pop());
    assert!(!marked(), "nothing waits for the new one");
    fill();
    assert!(marked());
    // The end of the old one is noticed.
    drop(readers.pop());
    here.messages.publish("news", "x").unwrap();
    let end = Instant::now() + DEADLINE;
    let is_here = |peer: &Arc<Peer>| peer.worker == 1 && !peer.is_gone();
    while here.post.peers().iter().any(is_here) {
        assert!(Instant::now() < end, "it is noticed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(marked());
    let mut buffer = vec![0; packet::MOST];
    while marked() {
        while nix::unistd::read(&readers[0], &mut buffer).is_ok() {}
        assert!(Instant::now() < end, "everything is sent");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The arbiter's word may be heard before what it follows.
#[tokio::test]
async fn what_was_not_sent_is_heard_behind_what_was() {
    let (there, here) = (worker(1, &[]), worker(2, &[]));
    here.post.meet(1, Some(copy(&there.mailbox)));
    let mut news = there.messages.subscribe("news");
    let mut other = there.messages.subscribe("other");
    for number in 0..100 {
        here.messages.publish("news", number.to_string()).unwrap();
    }
    there
        .post
        .miss(vec![("news".to_owned(), 7), ("nobody".to_owned(), 3)]);
    for number in 0..100 {
        assert_eq!(next(&mut news).await, number.to_string());
    }
    let lagged = timeout(DEADLINE, news.recv()).await.unwrap().unwrap_err();
    assert_eq!((lagged.missed(), other.try_recv()), (7, None));
    // Nothing comes in between: it is heard all the same.
    there.post.miss(vec![(String::new(), 1)]);
    for subscription in [&mut news, &mut other] {
        let lagged = timeout(DEADLINE, subscription.recv())
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(lagged.missed(), 1);
    }
}
