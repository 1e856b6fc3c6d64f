//! The worker's first thread: hears the arbiter and the signals, and holds the last deadline.

use std::future::pending;
use std::io;
use std::mem::take;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::life::Life;
use super::post::Post;
use super::reporter::Reporter;
use super::reports::Reports;
use super::stages::{Stages, now};
use super::view::View;
use super::wish::Wish;
use super::{Load, Start};
use crate::app::leases::Leases;
use crate::config::Timeouts;
use crate::exit::{ExitCode, chain};
use crate::ipc::bulletin::{Bulletin, Told};
use crate::ipc::channel::{Channel, Received, Report};
use crate::ipc::orders::{Level, Order};
use crate::kept::Kept;
use crate::lease::{Grant, Released};
use crate::lifecycle;
use crate::logs::events::Event;
use crate::sys::passing;
use crate::sys::readiness::Readiness;
use crate::{logs, sys};

/// The app ends by its own deadlines; the keeper steps in this much later.
const MARGIN: Duration = Duration::from_secs(1);
/// Who wakes up so much later than it wanted was stopped or starved, and so was the app, as a rule.
const LATE: Duration = Duration::from_millis(100);
/// What the app gets then, once. Where only the keeper was late, it is over before the arbiter takes the worker for
/// stuck.
const GRACE: Duration = Duration::from_millis(500);
/// How soon an order is looked for again where there was no memory for it, and what could not be said is said.
const AGAIN: Duration = Duration::from_millis(100);
/// So often at most after the app's end.
const LAST_TRIES: u32 = 5;

/// Runs the app in a thread of its own until it has ended.
pub(super) fn keep<S: Send + Sync + 'static>(start: Start, settings: S, load: Load<S>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(error = %error, "the worker cannot build its keeper's runtime");
            return ExitCode::Os;
        }
    };
    let code = runtime.block_on(async {
        Keeper::new(start).map(|(keeper, life)| keeper.keep(life, settings, load))
    });
    match code {
        Ok(keeping) => runtime.block_on(keeping),
        Err(error) => {
            tracing::error!(error = %error, "the worker cannot start");
            ExitCode::Os
        }
    }
}

struct Keeper {
    channel: Arc<Channel>,
    readiness: Readiness,
    terminate: Signal,
    /// Handled by doing nothing: a terminal sends them to the whole group, and the arbiter decides. Kept,
    /// since a default disposition would end the process.
    _ignored: Vec<Signal>,
    wish: watch::Sender<Wish>,
    /// Orders about links go on to the app's runtime as they are.
    links: mpsc::UnboundedSender<(Order, Option<OwnedFd>)>,
    stages: Arc<Stages>,
    leases: Arc<Leases>,
    view: Arc<View>,
    post: Arc<Post>,
    reports: Arc<Reports>,
    timeouts: Timeouts,
}

impl Keeper {
    /// Takes over the signals: from here on none is lost, and none ends the process by default.
    fn new(start: Start) -> io::Result<(Self, Life)> {
        let terminate = signal(SignalKind::terminate())?;
        let ignored = [
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::hangup(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::from_raw(nix::libc::SIGTTIN),
            SignalKind::from_raw(nix::libc::SIGTTOU),
        ];
        let ignored = ignored
            .into_iter()
            .map(signal)
            .collect::<io::Result<Vec<_>>>()?;
        sys::signals::unblock_all()?;
        let (wish, wishes) = watch::channel(Wish::Prepare);
        let timeouts = start.config.timeouts.clone();
        let (links, links_out) = mpsc::unbounded_channel();
        let life = Life::new(start, wishes, links_out);
        let channel = life.channel();
        let mut reporter = Reporter::new(life.reports());
        logs::send_events(move |event| reporter.report(event));
        let keeper = Self {
            readiness: Readiness::of(channel.as_fd())?,
            channel,
            terminate,
            _ignored: ignored,
            wish,
            links,
            stages: life.stages(),
            leases: life.leases(),
            view: life.view(),
            post: life.post(),
            reports: life.reports(),
            timeouts,
        };
        Ok((keeper, life))
    }

    async fn keep<S: Send + Sync + 'static>(
        mut self,
        life: Life,
        settings: S,
        load: Load<S>,
    ) -> ExitCode {
        let (ended, mut end) = oneshot::channel();
        let name = sys::process::short_name();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            // The receiver outlives this thread.
            let _ = ended.send(life.live(settings, load));
        });
        let thread = match thread {
            Ok(thread) => thread,
            Err(error) => {
                tracing::error!(error = %error, "the worker cannot start its app's thread");
                return ExitCode::Os;
            }
        };
        let (mut deadline, mut was_put_off, mut has_arbiter) = (None, false, true);
        let code = loop {
            tokio::select! {
                biased;
                end = &mut end => break end.unwrap_or(ExitCode::Software),
                order = next_order(&self.readiness, &self.channel, |news| hear(&self.post, &self.view, news)), if has_arbiter => match order {
                    Some((Order::Serve, _)) => self.wish(Wish::Serve, &mut deadline),
                    Some((Order::Because { why }, _)) => self.stages.leaves_for(why.name()),
                    Some((Order::Stop(level), _)) => self.stop(level, "told", &mut deadline),
                    Some((Order::Grant { payload, grant, kept }, file)) => {
                        self.grant(payload, grant, kept.map(|_| file));
                    }
                    Some((Order::Revoke { payload, epoch }, _)) => self.leases.revoke(payload, epoch),
                    Some((Order::Peer { worker, .. }, mailbox)) => self.meet(worker, mailbox),
                    // An app that has ended needs no link.
                    Some(link) => drop(self.links.send(link)),
                    None => {
                        has_arbiter = false;
                        // Nobody links workers any more.
                        let _ = self.links.send((Order::Close, None));
                        lifecycle!(Event::ArbiterLost, "the arbiter is gone: the worker drains and leaves");
                        self.stop(Level::Graceful, "arbiter-lost", &mut deadline);
                    }
                },
                Some(()) = self.terminate.recv() => self.stop(Level::Graceful, "signal", &mut deadline),
                // The app beats for what it says itself; it may be blocked.
                () = sleep(AGAIN), if self.reports.waits() => self.reports.flush(),
                () = until(deadline) => {
                    deadline = deadline.and_then(|at| put_off(at, Instant::now(), &mut was_put_off));
                    if deadline.is_none() {
                        tracing::error!("the app did not end within its deadlines: the worker leaves without it");
                        return ExitCode::Software;
                    }
                }
            }
        };
        self.say_the_rest().await;
        // It has sent its end: the thread has nothing left to do.
        if thread.join().is_err() {
            ExitCode::Software
        } else {
            code
        }
    }

    /// Why it ends, for example. With the process everything is free that it has; so nobody is waited for for long.
    async fn say_the_rest(&self) {
        for _ in 0..LAST_TRIES {
            self.reports.flush();
            if !self.reports.waits() {
                return;
            }
            sleep(AGAIN).await;
        }
        tracing::error!("the arbiter takes no reports: it does not hear how this worker ends");
    }

    /// `cause`: where nothing better is known.
    fn stop(&self, level: Level, cause: &'static str, deadline: &mut Option<Instant>) {
        // First: the app's thread begins to leave when it hears the wish.
        self.stages.leaves_for(cause);
        self.wish(Wish::Stop(level), deadline);
    }

    fn wish(&self, wish: Wish, deadline: &mut Option<Instant>) {
        let stronger = self.wish.send_if_modified(|current| {
            let stronger = wish > *current;
            if stronger {
                *current = wish;
            }
            stronger
        });
        if let (true, Wish::Stop(level)) = (stronger, wish) {
            *deadline = self
                .limit(level)
                .and_then(|limit| Instant::now().checked_add(limit));
        }
    }

    fn meet(&mut self, worker: u64, mailbox: Option<OwnedFd>) {
        if !self.post.meet(worker, mailbox) {
            self.reports.say_once(&Report::Unmet { worker });
        }
    }

    /// `kept`: something comes along, and how it has arrived.
    fn grant(&self, payload: u32, grant: Grant, kept: Option<Option<OwnedFd>>) {
        let how = match kept.map(adopt).transpose() {
            Ok(kept) => {
                if self.leases.grant(payload, grant, kept) {
                    return;
                }
                // The app is on its way out.
                Released::Spent
            }
            // It would begin anew although there is something to go on with: another worker can do better, or this
            // one when it has room again.
            Err(error) => {
                tracing::error!(
                    payload,
                    epoch = grant.epoch,
                    error = %error,
                    "what the last holder of a lease has kept did not arrive: the lease is given back"
                );
                Released::NotTaken
            }
        };
        self.stages.report(&Report::Released {
            payload,
            epoch: grant.epoch,
            how,
            at: now(),
        });
    }

    fn limit(&self, level: Level) -> Option<Duration> {
        let graceful = match level {
            Level::Graceful => self.timeouts.graceful?,
            Level::Quick | Level::Kill => Duration::ZERO,
        };
        Some(graceful + self.timeouts.cleanup? + MARGIN)
    }
}

/// The next deadline, once, when this one has passed while this process did not run: the app has not had the time to end
/// by its own.
fn put_off(deadline: Instant, now: Instant, was_put_off: &mut bool) -> Option<Instant> {
    let is_first = !std::mem::replace(was_put_off, true);
    (is_first && now > deadline + LATE).then(|| now + GRACE)
}

fn adopt(file: Option<OwnedFd>) -> io::Result<Arc<Kept>> {
    let file = file.ok_or_else(|| io::Error::other("no descriptor is left for it"))?;
    Kept::adopt(file).map(Arc::new)
}

fn hear(post: &Post, view: &View, mut bulletin: Bulletin) {
    post.miss(take(&mut bulletin.unsent));
    view.hear(bulletin);
}

/// The arbiter's next order, with the descriptor that came along; `None`: the arbiter is gone, or cannot be heard. What
/// it tells in between is given to `hear`. Cancel-safe.
async fn next_order(
    readiness: &Readiness,
    channel: &Channel,
    hear: impl Fn(Bulletin),
) -> Option<(Order, Option<OwnedFd>)> {
    loop {
        let mut ready = match readiness.readable().await {
            Ok(ready) => ready,
            Err(error) => {
                tracing::error!(error = %error, "the channel to the arbiter cannot be watched");
                return pending().await;
            }
        };
        match channel.receive_with() {
            Ok((Received::Message(Told::Order(order)), fd)) => return Some((order, fd)),
            Ok((Received::Message(Told::Bulletin(bulletin)), _)) => hear(*bulletin),
            Ok((Received::Unreadable(error), _)) => {
                tracing::warn!(
                    error,
                    "the arbiter has said something that is not known here"
                );
            }
            Ok((Received::Empty, _)) => ready.clear_ready(),
            Ok((Received::Closed, _)) => return None,
            Err(error) if passing::is_shortage(&error) => {
                tracing::warn!(error = %chain(&error), "an order of the arbiter cannot be read now");
                sleep(AGAIN).await;
            }
            // That does not pass: whoever cannot be told anything leaves.
            Err(error) => {
                tracing::error!(error = %chain(&error), "the channel to the arbiter is broken");
                return None;
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_deadline_counts_for_who_has_run_until_then() {
        let at = Instant::now();
        let first = |now| put_off(at, now, &mut false);
        assert_eq!(first(at), None);
        assert_eq!(first(at + LATE), None);
        let later = at + LATE * 2;
        assert_eq!(first(later), Some(later + GRACE));
        assert_eq!(put_off(at, later, &mut true), None, "once");
    }

    /// recvmsg(2) says the same about it each time.
    #[tokio::test]
    async fn a_channel_that_cannot_be_read_has_ended() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&writer, b"x").unwrap();
        let channel = Channel::from(reader);
        let readiness = Readiness::of(channel.as_fd()).unwrap();
        let order = next_order(&readiness, &channel, |_| panic!("no news")).await;
        assert_eq!(order.map(drop), None);
    }
}
