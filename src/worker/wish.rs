//! What the keeper wishes of the app's thread, and how that hears it.
//!
//! A wish and the clock are waited for beside the author's code, in one task. They are heard whatever that has done
//! before in the same poll: a step that always has something to do uses up what tokio grants one poll, and without
//! `unconstrained` nothing else of the task would be ready any more.

use std::future::pending;

use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep_until};

use crate::ipc::orders::Level;

/// What the worker is to do. Only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// Get ready, and wait.
    Prepare,
    Serve,
    Stop(Level),
}

/// Not by a stop, which comes from another thread and may have just overtaken the question whether there is one.
pub(super) async fn told_to_serve(wishes: &watch::Receiver<Wish>) {
    wait_for(wishes, |wish| wish == Wish::Serve).await;
}

pub(super) async fn told_to_stop(wishes: &watch::Receiver<Wish>) {
    wait_for(wishes, |wish| matches!(wish, Wish::Stop(_))).await;
}

pub(super) async fn told_to_hurry(wishes: &watch::Receiver<Wish>) {
    wait_for(wishes, |wish| wish >= Wish::Stop(Level::Quick)).await;
}

/// Never, for `None`. Heard as a wish is.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => unconstrained(sleep_until(deadline)).await,
        None => pending().await,
    }
}

/// A keeper that is gone wishes nothing any more.
async fn wait_for(wishes: &watch::Receiver<Wish>, wanted: impl Fn(Wish) -> bool) {
    let mut wishes = wishes.clone();
    let heard = unconstrained(wishes.wait_for(|wish| wanted(*wish))).await;
    if heard.is_err() {
        pending::<()>().await;
    }
}
