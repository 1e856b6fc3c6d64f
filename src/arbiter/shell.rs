//! The thin shell around the core: what the kernel says becomes events, actions become system calls.

mod look;
mod rival;
mod undelivered;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::sys::epoll::Epoll;
use nix::sys::signal::Signal;

use super::claim::Claims;
use super::core::{Action, Cause, Core, Event, Failing, Policy, WorkerId};
use super::handoff::Handoff;
use super::image::Images;
use super::intake::{Source, open_epoll, watch, watch_control};
use super::kept::Deposits;
use super::news::{News, Who};
use super::seats::{Child, Children};
use super::store::Store;
use super::{diagnose, journal, memory, post, preparation, view};
use crate::author::Author;
use crate::config::Config;
use crate::control;
use crate::exit::{ExitCode, Failure, chain};
use crate::ipc::channel::Channel;
use crate::ipc::orders::Order;
use crate::ipc::scoreboard::Meter;
use crate::messages::Tally;
use crate::moment::Moment;
use crate::sockets::{Listener, OwnPaths};
use crate::status::ServiceState;
use crate::sys::process::Forked;
use crate::sys::signals::Signals;
use crate::systemd::notify::{Notifier, Say, Settings};
use crate::worker;
use crate::{logs, sys, trouble};

/// How the arbiter's loop ends: once in the arbiter, and once in every worker that it forks.
pub(crate) enum Outcome {
    Leave(ExitCode),
    /// This process is a new worker.
    Worker(Box<worker::Start>),
    /// This process is a helper that logs and leaves.
    Helper(diagnose::Helper),
}

/// What the arbiter works with, made before it starts.
pub(crate) struct Equipment {
    pub(crate) config: Arc<Config>,
    pub(crate) listeners: Arc<[Listener]>,
    /// Listeners of the generation before, until the new one has taken over.
    pub(crate) surplus: Vec<Listener>,
    /// Socket files that this service made, to be removed at its end.
    pub(crate) own_paths: OwnPaths,
    pub(crate) notifier: Notifier,
    pub(crate) manager: Settings,
    pub(crate) signals: Signals,
    pub(crate) control: Option<control::Server>,
    pub(crate) images: Images,
    pub(crate) store: Store,
    pub(crate) name: Arc<str>,
    pub(crate) author: Box<dyn Author>,
}

/// The arbiter.
pub(crate) struct Shell {
    pub(super) core: Core,
    pub(super) children: Children,
    pub(super) equipment: Equipment,
    pub(super) epoll: Epoll,
    pub(super) events: VecDeque<Event>,
    /// How the forks and the grants went that the last event led to.
    answers: VecDeque<Event>,
    refresh_at: Option<Moment>,
    /// When the kernel last said what there is: what has happened since then is not seen yet.
    looked_at: Moment,
    /// This process did not run for a while: what it has just heard may have happened at any time since then.
    pub(super) blind_since: Option<Moment>,
    /// Which control client waits for which trigger's answer.
    pub(super) waiting: BTreeMap<u64, u32>,
    pub(super) next_trigger: u64,
    pub(super) handoff: Handoff,
    pub(super) news: News,
    /// What payloads have kept for their successors.
    pub(super) deposits: Deposits,
    /// To be the only life of this service.
    pub(super) claims: Claims,
    /// Those that log for it.
    pub(super) helpers: diagnose::Helpers,
    /// The last STATUS that was sent.
    status: String,
    /// What the last STATUS was about, without the counts.
    summary: Summary,
    /// Records that images before this one dropped.
    pub(super) earlier_drops: u64,
}

impl Equipment {
    /// The arbiter's own end. A worker must never come here: the files are not its own.
    fn clean_up(&mut self) {
        self.notifier.flush();
        self.own_paths.remove();
        if let Some(control) = &self.control {
            control.remove();
        }
    }
}

/// State, stage of a reload, serving workers, slots, a payload that fails wherever it is, whether leases are withheld.
type Summary = (
    ServiceState,
    Option<&'static str>,
    usize,
    usize,
    Option<Failing>,
    bool,
);

impl Shell {
    /// # Errors
    /// The preload failed, or there is no memory or no descriptor for the scoreboard or epoll.
    pub(crate) fn new(mut equipment: Equipment) -> Result<Self, Failure> {
        if let Err(failure) = preparation::begin(&mut equipment) {
            equipment.clean_up();
            return Err(failure);
        }
        let board = crate::ipc::scoreboard::create()
            .map_err(|error| Failure::new(ExitCode::Os, "make the scoreboard").because(error))?;
        let policy = Policy::new(&equipment.config, equipment.notifier.watchdog_interval());
        let mut core = Core::new(policy, fastrand::u64(..));
        core.number_leases_from(sys::clock::unix_micros());
        let deposits = Deposits::inherit(equipment.store.take_kept(), &mut core);
        let epoll = open_epoll(&equipment.signals)
            .and_then(|epoll| {
                if let Some(control) = &equipment.control {
                    watch_control(&epoll, control)?;
                }
                Ok(epoll)
            })
            .map_err(|error| {
                Failure::new(ExitCode::Os, "watch the signals and the control socket")
                    .because(error)
            })?;
        let claims = Claims::new(&equipment.listeners).map_err(|error| {
            Failure::new(
                ExitCode::Os,
                "make a socket to claim this service's leases with",
            )
            .because(error)
        })?;
        let children = Children::new(board);
        let mut shell = Self::assemble(core, children, equipment, epoll, News::new());
        shell.deposits = deposits;
        shell.claims = claims;
        shell.begin_claims();
        let header = &shell.children.board.header;
        header.arbiter_pid.store(std::process::id(), Relaxed);
        header.started.store(now().as_nanos(), Relaxed);
        for listener in shell.equipment.listeners.iter() {
            journal::socket(listener);
        }
        journal::starting(usize::from(shell.equipment.config.workers));
        shell.events.push_back(Event::Start);
        Ok(shell)
    }

    pub(super) fn assemble(
        core: Core,
        children: Children,
        equipment: Equipment,
        epoll: Epoll,
        news: News,
    ) -> Self {
        Self {
            core,
            children,
            equipment,
            epoll,
            events: VecDeque::new(),
            answers: VecDeque::new(),
            refresh_at: None,
            looked_at: now(),
            blind_since: None,
            waiting: BTreeMap::new(),
            next_trigger: 0,
            handoff: Handoff::default(),
            news,
            deposits: Deposits::default(),
            claims: Claims::default(),
            helpers: diagnose::Helpers::default(),
            status: String::new(),
            summary: (ServiceState::Booting, None, 0, 0, None, false),
            earlier_drops: 0,
        }
    }

    /// Runs until the service has ended. Returns a second time in every worker that it forks, with all that
    /// belongs to the arbiter dropped there, and with what a worker needs of the author.
    pub(crate) fn run(mut self) -> (Outcome, Box<dyn Author>) {
        let outcome = self.run_until_end();
        if matches!(outcome, Outcome::Leave(_)) {
            self.equipment.clean_up();
            std::mem::take(&mut self.helpers).wait(&self.equipment.signals);
        }
        (outcome, self.equipment.author)
    }

    fn run_until_end(&mut self) -> Outcome {
        self.refresh_at = Some(now() + look::REFRESH);
        loop {
            if let ControlFlow::Break(outcome) = self.work_off() {
                return outcome;
            }
            self.hand_on(now());
            self.tell_manager();
            self.spread_news(now());
            if let Err(error) = self.wait() {
                tracing::error!(error = %error, "epoll failed: the arbiter cannot go on");
                return Outcome::Leave(ExitCode::Os);
            }
        }
    }

    /// Delivers every event that waits and does what the core answers.
    fn work_off(&mut self) -> ControlFlow<Outcome> {
        loop {
            while let Some(event) = self.events.pop_front() {
                for action in self.core.handle(now(), event) {
                    self.carry_out(action)?;
                }
                // They are answered before anything else is told: clause 5 of the core's contract.
                while let Some(answer) = self.answers.pop_back() {
                    self.events.push_front(answer);
                }
            }
            // Not before everything is told: clause 7. What the kernel still holds is there for the next image too.
            let Some(image) = self.core.leaves_for() else {
                return ControlFlow::Continue(());
            };
            if self.equipment.store.is_adopting() {
                return ControlFlow::Continue(());
            }
            let failed = self.exec(image);
            self.events.push_back(failed);
        }
    }

    fn carry_out(&mut self, action: Action) -> ControlFlow<Outcome> {
        match action {
            Action::Fork {
                worker,
                slot,
                generation,
                restarts,
                cause,
            } => match self.fork(worker, slot, generation, restarts, cause) {
                Ok(ControlFlow::Continue(pid)) => {
                    journal::forked(worker, slot, generation, pid, cause);
                    self.answers.push_back(Event::Forked { worker, pid });
                }
                Ok(ControlFlow::Break(start)) => return ControlFlow::Break(Outcome::Worker(start)),
                Err(error) => self.answers.push_back(Event::ForkFailed {
                    worker,
                    error: error.to_string(),
                }),
            },
            Action::Send { worker, order } => {
                self.prepare_for(worker, order, now());
                if let Err(error) = self.send(worker, order) {
                    let answer = undelivered::answer(worker, order, &error, now());
                    self.answers.extend(answer);
                }
            }
            Action::Abort {
                worker,
                phase,
                overdue,
            } => {
                if let Some(child) = self.children.get(worker) {
                    let (all, helpers) = (&self.children, &mut self.helpers);
                    let helper = diagnose::report(worker, child, all, phase, overdue, helpers);
                    if let Some(helper) = helper {
                        return ControlFlow::Break(Outcome::Helper(helper));
                    }
                    signal(child.pid, Signal::SIGABRT);
                }
            }
            Action::Kill { worker } => {
                if let Some(child) = self.children.get(worker) {
                    let seat = self.children.seat(child);
                    let (slot, generation) = (&seat.slot, &seat.generation);
                    journal::killed(
                        worker,
                        slot.load(Relaxed),
                        generation.load(Relaxed),
                        child.pid,
                    );
                    signal(child.pid, Signal::SIGKILL);
                }
            }
            Action::Discard { deposit } => self.deposits.discard(deposit),
            Action::Settle => self.settle_store(),
            Action::Ready => {
                self.status = self.status_line();
                let says = [Say::Ready, Say::Status(&self.status)];
                self.equipment.notifier.send(&says);
            }
            Action::Stopping => {
                self.status = self.status_line();
                let says = [Say::Stopping, Say::Status(&self.status)];
                self.equipment.notifier.send(&says);
            }
            Action::Reloading => {
                let began = now().as_nanos() / 1000;
                self.status = self.status_line();
                let says = [Say::Reloading(began), Say::Status(&self.status)];
                self.equipment.notifier.send(&says);
            }
            Action::Preflight => self.preflight(),
            Action::EndPreflight => self.end_preflight(),
            Action::Release => self.release(),
            Action::Answer { trigger, outcome } => self.answer(trigger, outcome),
            Action::Watchdog => self.equipment.notifier.watchdog(),
            Action::ExtendTimeout(by) => self.equipment.notifier.extend_timeout(by),
            Action::Log(notice) => journal::write(&notice, self.core.generation()),
            Action::Leave(code) => return ControlFlow::Break(Outcome::Leave(code)),
        }
        ControlFlow::Continue(())
    }

    /// `Break` in the child.
    fn fork(
        &mut self,
        worker: WorkerId,
        slot: u16,
        generation: u32,
        restarts: u32,
        cause: Cause,
    ) -> io::Result<ControlFlow<Box<worker::Start>, u32>> {
        // It is there, unless the way back from a reload found it failing.
        preparation::prepare(&mut self.equipment)
            .map_err(|failure| io::Error::other(chain(&failure)))?;
        let (ours, theirs) = Channel::pair()?;
        let (mailbox, reader) = post::mailbox()?;
        let seat = self
            .children
            .take_seat(worker, slot, generation, restarts)
            .ok_or_else(|| {
                io::Error::other(
                    "every seat on the scoreboard is taken: too many workers are still draining",
                )
            })?;
        let briefing = self.news.briefing();
        // Before it can say anything.
        self.introduce(worker, &mailbox);
        match sys::process::fork_single_threaded() {
            Err(error) => {
                self.children.give_back(seat);
                Err(error)
            }
            Ok(Forked::Child) => Ok(ControlFlow::Break(Box::new(worker::Start {
                worker: worker.0,
                slot,
                generation,
                cause: cause.name(),
                workers: u32::try_from(self.core.workers_of(generation)).unwrap_or(u32::MAX),
                arbiter: self.children.board.header.arbiter_pid.load(Relaxed),
                channel: theirs,
                mailbox: reader,
                peers: self.children.take_mailboxes(),
                claims: std::mem::take(&mut self.claims).into_sockets(),
                meter: Meter::new(self.children.board.clone(), seat),
                config: self.equipment.config.clone(),
                listeners: self.equipment.listeners.clone(),
                briefing,
                name: self.equipment.name.clone(),
            }))),
            Ok(Forked::Parent { child: pid }) => {
                let watched = watch(&self.epoll, &ours, Source::Worker(worker));
                if let Err(error) = &watched {
                    // It exists: it has to be told to go, by the closed channel, and to be reaped as ours.
                    tracing::error!(payload_worker = worker.0, error = %error, "a worker's channel cannot be watched");
                    self.events.push_back(Event::ChannelClosed { worker });
                }
                let who = Who {
                    slot: u32::from(slot),
                    generation,
                    pid,
                };
                self.news.briefed(worker, who);
                self.children.add(
                    worker,
                    Child {
                        pid,
                        seat,
                        channel: watched.is_ok().then_some(ours),
                        mailbox: Some(mailbox),
                        payloads: Vec::new(),
                        scopes: Vec::new(),
                        unmet: BTreeSet::new(),
                        unsent: Tally::default(),
                        is_strange: false,
                    },
                );
                Ok(ControlFlow::Continue(pid))
            }
        }
    }

    /// # Errors
    /// It is sure that the worker does not get it.
    pub(super) fn send(&mut self, worker: WorkerId, order: Order) -> io::Result<()> {
        let child = self.children.get(worker);
        let channel = child.and_then(|child| child.channel.as_ref());
        let channel = channel.ok_or(io::ErrorKind::NotConnected)?;
        let sent = self.deposits.send(channel, order);
        if let Err(error) = &sent {
            if error.kind() == io::ErrorKind::BrokenPipe {
                tracing::debug!(payload_worker = worker.0, order = ?order, "a worker that has ended could not be told");
            } else {
                tracing::warn!(payload_worker = worker.0, order = ?order, error = %error, "a worker could not be told");
            }
            if undelivered::ends_channel(order, error) {
                self.hang_up(worker);
            }
        }
        sent
    }

    pub(super) fn view(&self) -> crate::status::Status {
        memory::measure(&self.children);
        view::status(
            &self.core,
            &self.children,
            &self.equipment.listeners,
            view::workers(&self.children, self.news.failures()),
            &self.status_line(),
        )
    }

    /// STATUS when what it is about has changed, and whatever the manager did not take before.
    fn tell_manager(&mut self) {
        let summary = (
            self.core.state(),
            self.core.reload_stage(),
            self.core.serving(),
            self.core.target(),
            self.core.failing(),
            self.core.withholds_leases(),
        );
        let header = &self.children.board.header;
        let drops = self.earlier_drops.saturating_add(logs::drops());
        header.log_drops.store(drops, Relaxed);
        header.state.store(summary.0 as u8, Relaxed);
        header.generation.store(self.core.generation(), Relaxed);
        header
            .workers
            .store(u32::try_from(summary.3).unwrap_or(u32::MAX), Relaxed);
        if summary != self.summary {
            self.summary = summary;
            self.news.changed();
            let status = self.status_line();
            if status != self.status {
                self.equipment.notifier.status(&status);
                self.status = status;
            }
        }
        self.equipment.notifier.flush();
    }

    fn status_line(&self) -> String {
        let counts = view::Counts {
            connections: self.children.connections(),
            in_flight: self.children.in_flight(),
            workers: self.children.iter().count(),
            kept: self.equipment.store.kept(),
            trouble: trouble::line(&view::workers(&self.children, self.news.failures())),
            at: now(),
        };
        view::line(&self.core, Some(&counts))
    }
}

pub(super) fn now() -> Moment {
    Moment::from_nanos(sys::clock::monotonic_nanos())
}

pub(super) fn signal(pid: u32, signal: Signal) {
    if let Err(error) = sys::process::signal_child(pid, signal) {
        tracing::warn!(pid, signal = signal.as_str(), error = %error, "a worker could not be signalled");
    }
}
