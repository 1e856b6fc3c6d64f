//! The arbiter's decisions as a state machine without IO.
//!
//! # Contract
//! 1. The first event is [`Event::Start`]; the shell delivers events one at a time, with a `now` that never
//!    goes back.
//! 2. After each [`Core::handle`] the shell carries out the returned actions in order. What an action brings
//!    about (a fork's pid or failure, an exit) comes back as an event, never as a return value.
//! 3. The shell waits at most until [`Core::poll_timeout`], then delivers fresh [`Event::Beats`], a fresh
//!    [`Event::Activity`] if [`Core::look_at`] has come, and, right after them, [`Event::Tick`]. Limits are looked
//!    at on a tick only: a worker is never judged by beats that are older than the question.
//! 4. A worker's messages are delivered before its [`Event::Exited`]; nothing comes for a worker after it.
//! 5. Each [`Action::Fork`] is answered by exactly one [`Event::Forked`] or [`Event::ForkFailed`] before any
//!    other event. So is a grant that could not be sent: by [`Event::Undelivered`] if it is for the worker's sake, since
//!    several workers may have died when the first of their ends is told; by [`Event::Released`], as not taken, if it
//!    is for that of the arbiter or the machine, and the worker can be told the next thing.
//! 6. After [`Action::Leave`] nothing is delivered.
//! 7. When nothing is left to deliver and [`Core::leaves_for`] names an image, the shell saves the core and executes
//!    the image. The next event is [`Event::Resume`], to the core that the new image adopted, or
//!    [`Event::ExecFailed`] to this one. What was heard before the exec is never left behind: it would be lost.
//! 8. [`Action::Preflight`] is answered by one [`Event::Preflighted`], unless [`Action::EndPreflight`] comes first.
//!
//! # What holds
//! 1. A slot has at most one serving worker and at most one that is being prepared to take over.
//! 2. Nothing is forked once a stop was asked for.
//! 3. READY goes out when every slot serves for the first time, and at the end of each reload.
//! 4. Before that, one failure ends the boot; after that, no failure to boot ends a healthy worker.
//! 5. A worker is retired only after its replacement serves, its slot is given up, or the service stops.
//! 6. The arbiter leaves only when it has no worker left.
//! 7. What a stop before a restart keeps is settled when no worker is left, and before the arbiter leaves.
//! 8. A reload that fails leaves the old generation serving; one that succeeds retires it after every new worker
//!    has served for the trial. Every trigger gets one answer.
//! 9. Idleness ends the service only by a look that found nothing after every worker had said that it accepts
//!    nothing. Whoever was told to pause is told to resume, or to stop.
//! 10. A lease has at most one holder; see [`lease`].
//! 11. The service is not ready as long as nobody runs a payload of which there is one since it has failed wherever it
//!     was; see [`lease`].

mod actions;
mod backoff;
mod degraded;
mod events;
mod health;
mod idle;
mod lease;
mod lifecycle;
mod links;
mod policy;
mod reload;
mod retire;
mod roster;
mod saved;
mod stop;

#[cfg(test)]
mod custody;
#[cfg(test)]
mod invariants;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tenant;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) use actions::{Action, Cause, Fatal, Image, Notice, Overdue};
pub(crate) use events::{Event, Exit, Request};
pub(crate) use idle::Activity;
pub(crate) use lease::{Failing, Want};
pub(crate) use links::{Links, Seen, Tie};
pub(crate) use policy::Policy;
pub(crate) use reload::Trigger;
pub(crate) use roster::{Slot, Worker, WorkerId};
pub(crate) use saved::Saved;

use crate::ipc::orders::{Level, Why};
use crate::moment::Moment;
use crate::status::ServiceState;
use backoff::{Crashes, Random};
use degraded::Degraded;
use idle::Idle;
use lease::Leases;
use reload::Reload;
use stop::{Occasion, Stop};

/// More slots than this make no sense on one machine, and the scoreboard has seats for four times as many.
pub(crate) const MAX_SLOTS: u16 = 128;

/// An arbiter that wakes up this much later than it wanted was itself stopped or starved.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// The arbiter's state machine. See the module for its contract.
pub(crate) struct Core {
    policy: Policy,
    /// The number of workers that the last image was configured with.
    configured_before: u16,
    /// The generation that serves.
    generation: u32,
    /// The last number that was given to a generation; one that failed keeps its number to itself.
    last_generation: u32,
    slots: Vec<Slot>,
    workers: BTreeMap<WorkerId, Worker>,
    next_worker: u64,
    crashes: Crashes,
    random: Random,
    /// Every slot has served at the same time once.
    was_ready: bool,
    degraded: Degraded,
    stop: Option<Stop>,
    reload: Option<Reload>,
    /// Why the last reload failed; none has succeeded since.
    reload_failure: Option<String>,
    /// A change of the number of slots that waits for the end of the reload.
    wanted_slots: Option<u16>,
    /// Workers of slots that were given up, and that serve until another one does.
    surplus: Vec<WorkerId>,
    idle: Idle,
    leases: Leases,
    next_watchdog: Option<Moment>,
    next_extension: Option<Moment>,
    /// Since when the arbiter has been running without a gap.
    awake_since: Moment,
    actions: Vec<Action>,
}

impl Core {
    /// `seed` decides the jitter, and nothing else does.
    pub(crate) fn new(policy: Policy, seed: u64) -> Self {
        Self {
            crashes: Crashes::new(policy.crash_budget, policy.crash_window),
            configured_before: policy.workers,
            policy,
            generation: 1,
            last_generation: 1,
            slots: Vec::new(),
            workers: BTreeMap::new(),
            next_worker: 1,
            random: Random::new(seed),
            was_ready: false,
            degraded: Degraded::default(),
            stop: None,
            reload: None,
            reload_failure: None,
            wanted_slots: None,
            surplus: Vec::new(),
            idle: Idle::default(),
            leases: Leases::default(),
            next_watchdog: None,
            next_extension: None,
            awake_since: Moment::default(),
            actions: Vec::new(),
        }
    }

    /// Takes one event in and gives back what has to be done about it, in order.
    pub(crate) fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        if self.poll_timeout().is_some_and(|due| now > due + OVERSLEPT) {
            self.awake_since = now;
        }
        match event {
            Event::Start => self.start(now),
            Event::Resume => self.resume(now),
            Event::Forked { worker, pid } => self.forked(worker, pid),
            Event::ForkFailed { worker, error } => self.fork_failed(now, worker, error),
            Event::Entered { worker, phase } => self.entered(now, worker, phase),
            Event::Failed { worker, reason } => self.failed(worker, reason),
            Event::Preflighted(result) => self.preflighted(now, result),
            Event::ExecFailed { error } => self.exec_failed(now, &error),
            Event::Beats(beats) => self.beats(&beats),
            Event::Activity(activity) => self.look(now, activity),
            Event::Paused { worker, round } => self.paused(now, worker, round),
            Event::ChannelClosed { worker } => self.channel_closed(now, worker),
            Event::Exited { worker, exit, at } => self.exited(now, worker, exit, at),
            Event::Wants { worker, wants } => self.wants(worker, wants),
            Event::Released {
                worker,
                payload,
                epoch,
                how,
                at,
            } => self.released(now, worker, (payload, epoch), how, at),
            Event::Undelivered {
                worker,
                payload,
                epoch,
            } => self.undelivered(now, worker, (payload, epoch)),
            Event::Kept {
                worker,
                payload,
                epoch,
                deposit,
            } => self.kept(worker, (payload, epoch), deposit),
            Event::Claimed => self.release_leases(),
            Event::Recycle { worker, cause } => self.ask_to_recycle(worker, cause),
            Event::Asked(request) => self.asked(now, request),
            Event::Tick => self.supervise(now),
        }
        self.advance(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Event::Tick`] is due; `None`: there is nothing to wait for but other events.
    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        let slots = self
            .slots
            .iter()
            .filter(|_| !self.suspends_forks())
            .filter_map(|slot| slot.retry_at);
        let workers = self
            .workers
            .iter()
            .filter_map(|(id, worker)| self.worker_timeout(*id, worker));
        let crashes = self
            .crashes
            .forgotten_at()
            .filter(|_| self.degraded.is_so && self.stop.is_none());
        let leases = self.leases.poll_timeout().filter(|_| self.stop.is_none());
        slots
            .chain(workers)
            .chain(crashes)
            .chain(leases)
            .chain(self.reload.as_ref().and_then(Reload::poll_timeout))
            .chain(self.look_at())
            .chain(self.next_watchdog)
            .chain(self.next_extension)
            .min()
    }

    pub(crate) fn state(&self) -> ServiceState {
        if self.stop.is_some() {
            ServiceState::Stopping
        } else if !self.was_ready {
            ServiceState::Booting
        } else if self.reload.as_ref().is_some_and(Reload::is_under_way) {
            ServiceState::Reloading
        } else if self.degraded.is_so {
            ServiceState::Degraded
        } else {
            ServiceState::Ready
        }
    }

    /// The service stops, and is to be started again.
    pub(crate) fn restarts(&self) -> bool {
        self.stop
            .as_ref()
            .is_some_and(|stop| stop.occasion == Occasion::Restart)
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// The image that this one is to be replaced by, as soon as nothing is left to deliver.
    pub(crate) fn leaves_for(&self) -> Option<Image> {
        self.reload.as_ref().and_then(Reload::leaves_for)
    }

    /// The time without need that it took, if that is why the service stops.
    pub(crate) fn stops_idle(&self) -> Option<Duration> {
        match self.stop.as_ref()?.occasion {
            Occasion::Idle(idle) => Some(idle),
            _ => None,
        }
    }

    /// Why that worker was told to leave, if it was.
    pub(crate) fn reason_to_leave(&self, worker: WorkerId) -> Option<Why> {
        self.workers.get(&worker)?.leaves_for
    }

    /// Why the last reload failed; `None` when there was none, or it succeeded.
    pub(crate) fn reload_failure(&self) -> Option<&str> {
        self.reload_failure.as_deref()
    }

    /// How many workers a generation has, or will have.
    pub(crate) fn workers_of(&self, generation: u32) -> usize {
        match &self.reload {
            Some(reload) if generation > self.generation => reload.members().len(),
            _ => self.target(),
        }
    }

    /// What the reload under way is doing.
    pub(crate) fn reload_stage(&self) -> Option<&'static str> {
        self.reload.as_ref().map(Reload::stage_name)
    }

    /// How many workers should serve.
    pub(crate) fn target(&self) -> usize {
        self.slots.len()
    }

    /// How many workers do serve.
    pub(crate) fn serving(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| slot.serving.is_some())
            .count()
    }

    /// The workers that serve and stay, each with its slot.
    pub(crate) fn serving_workers(&self) -> impl Iterator<Item = (WorkerId, u16)> {
        let serving = self.slots.iter().filter_map(|slot| slot.serving);
        serving.filter_map(|id| {
            let worker = self.workers.get(&id)?;
            (!worker.is_leaving()).then_some((id, worker.slot))
        })
    }

    /// Everything that depends on several workers together, or on the time and not on heartbeats.
    fn advance(&mut self, now: Moment) {
        if self.stop.is_some() {
            self.finish_stop();
        } else {
            // First: nobody waits for a fork.
            self.end_disturbed_pause(now);
            self.announce();
            self.advance_reload(now);
            self.refill(now);
            self.settle_shares();
            self.serve_prepared(now);
            self.recycle_next(now);
            self.retire_surplus(now);
            self.pass_leases(now);
            self.prove_holders(now);
            self.begin_idle_time(now);
            self.judge(now);
        }
        self.keep_manager_informed(now);
    }

    fn start(&mut self, now: Moment) {
        self.next_watchdog = self.policy.watchdog.map(|_| now);
        self.next_extension = Some(now + self.policy.extension_interval);
        for _ in 0..self.policy.workers {
            self.slots.push(Slot::new(Cause::Boot));
        }
    }

    fn asked(&mut self, now: Moment, request: Request) {
        match request {
            Request::Stop(level) => self.ask_to_stop(now, level, Occasion::Asked),
            Request::Restart => self.ask_to_stop(now, Level::Graceful, Occasion::Restart),
            Request::Reload(trigger) => self.ask_to_reload(now, trigger),
            Request::Scale(target) => self.scale(now, target),
            Request::OneMore => self.scale(now, self.wanted_number().saturating_add(1)),
            Request::OneLess => self.scale(now, self.wanted_number().saturating_sub(1)),
        }
    }

    fn target_number(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(MAX_SLOTS)
    }

    /// The number of slots as it will be, when the reload under way has ended.
    fn wanted_number(&self) -> u16 {
        self.wanted_slots.unwrap_or_else(|| self.target_number())
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn notice(&mut self, notice: Notice) {
        self.act(Action::Log(notice));
    }
}
