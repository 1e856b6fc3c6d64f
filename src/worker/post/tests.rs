//! Workers' posts in one process, with real mailboxes.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::time::{Instant, timeout};

use super::{Office, Post};
use crate::messages::{Messages, Subscription};

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
    old.post.meet(2, Some(copy(&new.mailbox)));
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

/// More than the mailbox holds: the rest goes out at the end.
#[tokio::test]
async fn what_is_late_is_sent_before_a_worker_leaves() {
    let (there, here) = (worker(1, &[]), worker(2, &[]));
    here.post.meet(1, Some(copy(&there.mailbox)));
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
    here.post.meet(1, Some(mailbox));
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
