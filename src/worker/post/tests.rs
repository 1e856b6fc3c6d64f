//! Workers' posts in one process, with real mailboxes.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{Office, Post};
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
    let (post, its) = Post::new(number, reader, peers.collect());
    Worker {
        messages: post.messages(),
        office: post.clone().open(its),
        post,
        mailbox,
    }
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

#[tokio::test]
async fn a_message_waits_until_its_sender_is_known_so_that_an_answer_reaches_it() {
    let old = worker(1, &[]);
    let mut asked = old.messages.subscribe("ask");
    let new = worker(2, &[&old]);
    let mut answers = new.messages.subscribe("answer");
    new.messages.publish("ask", "who is there?").unwrap();
    // The arbiter has told of it, and that has not been heard yet.
    assert!(
        timeout(Duration::from_millis(20), asked.recv())
            .await
            .is_err()
    );
    old.post.meet(2, Some(copy(&new.mailbox)), false);
    assert_eq!(next(&mut asked).await, "who is there?");
    old.messages.publish("answer", "me").unwrap();
    assert_eq!(next(&mut answers).await, "me");
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
        here.post.meet(number, Some(mailbox), false);
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
    here.post.know(2);
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
    here.post.meet(1, Some(copy(&there.mailbox)), false);
    there.post.know(2);
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
    here.post.meet(1, Some(copy(&there.mailbox)), false);
    there.post.know(2);
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

#[tokio::test]
async fn who_is_met_late_hears_that_it_may_have_missed_something_and_nothing_twice() {
    let (there, here) = (worker(1, &[]), worker(2, &[]));
    there.post.know(2);
    let mut news = there.messages.subscribe("news");
    assert!(!here.post.meet(1, None, false));
    here.messages.publish("news", "before").unwrap();
    for _ in 0..2 {
        assert!(here.post.meet(1, Some(copy(&there.mailbox)), true));
    }
    let lagged = timeout(DEADLINE, news.recv()).await.unwrap().unwrap_err();
    assert_eq!(lagged.missed(), 1);
    here.messages.publish("news", "after").unwrap();
    here.messages.publish("news", "again").unwrap();
    assert_eq!(next(&mut news).await, "after");
    assert_eq!(next(&mut news).await, "again");
}

/// More than the mailbox holds: the rest goes out at the end.
#[tokio::test]
async fn what_is_late_is_sent_before_a_worker_leaves() {
    let (there, here) = (worker(1, &[]), worker(2, &[]));
    here.post.meet(1, Some(copy(&there.mailbox)), false);
    there.post.know(2);
    let mut news = there.messages.subscribe("news");
    for number in 0..1_000_u32 {
        here.messages
            .publish("news", format!("{number:>2000}"))
            .unwrap();
    }
    here.office.close(None).await;
    for number in 0..1_000_u32 {
        assert_eq!(next(&mut news).await.trim(), number.to_string());
    }
}

#[tokio::test]
async fn a_worker_that_is_stuck_does_not_hold_one_that_leaves() {
    let here = worker(2, &[]);
    let (mailbox, _never_read) = mailbox();
    here.post.meet(1, Some(mailbox), false);
    for _ in 0..2_000 {
        here.messages.publish("news", vec![0; 1_000]).unwrap();
    }
    let begun = Instant::now();
    here.office.close(Some(begun + DEADLINE)).await;
    assert!(begun.elapsed() < DEADLINE / 4, "{:?}", begun.elapsed());
    assert!(
        nix::unistd::write(&here.mailbox, b"x").is_err(),
        "it reads no more"
    );
}
