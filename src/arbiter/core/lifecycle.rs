//! What happens to one worker: born, on its way, gone.

use super::actions::{Action, Cause, Fatal, Notice};
use super::backoff;
use super::events::Exit;
use super::roster::{Worker, WorkerId};
use super::{Core, Moment};
use crate::ipc::orders::Why;
use crate::worker::phase::Phase;

impl Core {
    /// Asks for a worker to take over the slot. The slot exists and nobody is being prepared for it.
    pub(super) fn fork(&mut self, now: Moment, index: usize, cause: Cause) {
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        let id = self.new_worker(now, number, self.generation);
        let slot = &mut self.slots[index];
        slot.incoming = Some(id);
        slot.retry_at = None;
        let restarts = slot.restarts;
        self.act(Action::Fork {
            worker: id,
            slot: number,
            generation: self.generation,
            restarts,
            cause,
        });
    }

    /// Its record; the fork is still to be asked for.
    pub(super) fn new_worker(&mut self, now: Moment, slot: u16, generation: u32) -> WorkerId {
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        let worker = Worker::new(slot, generation, now, self.policy.limits());
        self.workers.insert(id, worker);
        id
    }

    pub(super) fn forked(&mut self, id: WorkerId, pid: u32) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.pid = Some(pid);
        }
    }

    pub(super) fn fork_failed(&mut self, now: Moment, id: WorkerId, error: String) {
        let member = self.is_member(id);
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        let slot = worker.slot;
        if member {
            self.abort_reload(now, format!("no process for slot {slot}: {error}"));
            return;
        }
        let attached = self.detach(id);
        if self.stop.is_some() {
            return;
        }
        if self.was_ready {
            self.notice(Notice::ForkFailed { slot, error });
            if let Some(index) = attached {
                self.slot_failed(now, index, false);
            }
        } else {
            self.give_up(now, Fatal::Fork { slot, error });
        }
    }

    pub(super) fn entered(&mut self, now: Moment, id: WorkerId, phase: Phase) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if phase <= worker.phase {
            return;
        }
        worker.phase = phase;
        worker.phase_since = now;
        worker.last_beat = worker.last_beat.max(now);
        let leaving = worker.is_leaving();
        let (slot, reason) = (worker.slot, worker.reason.clone());
        match phase {
            Phase::Serving if self.is_member(id) => self.member_serves(now, id),
            Phase::Serving => self.promote(now, id),
            // It leaves by itself: a critical payload has ended, its listeners failed, someone signalled it.
            // A member that unwinds a failed start is counted when it has exited, with its reason.
            Phase::Draining if self.is_member(id) && !leaving => {
                let reason = reason.unwrap_or_else(|| "it left by itself".to_owned());
                self.member_failed(now, slot, &reason);
            }
            Phase::Draining | Phase::Cleaning if !leaving => self.left_by_itself(now, id),
            _ => {}
        }
    }

    /// The worker serves: it is its slot's worker from now on, and the one before it leaves.
    fn promote(&mut self, now: Moment, id: WorkerId) {
        let Some(index) = self.slots.iter().position(|slot| slot.incoming == Some(id)) else {
            return;
        };
        self.begin_service(now, id);
        let slot = &mut self.slots[index];
        slot.incoming = None;
        slot.recycle = None;
        slot.retry_at = None;
        if let Some(old) = slot.serving.replace(id) {
            let slot = u16::try_from(index).unwrap_or(u16::MAX);
            self.notice(Notice::Replaced { slot, old, new: id });
            self.retire(now, old, Why::Recycle);
        }
    }

    pub(super) fn begin_service(&mut self, now: Moment, id: WorkerId) {
        let retire_at = self.policy.max_age.map(|age| {
            // Workers that were forked together do not leave together.
            now + age.mul_f64(1.0 - 0.1 * self.random.fraction())
        });
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.serving_since = Some(now);
            worker.retire_at = retire_at;
        }
    }

    fn left_by_itself(&mut self, now: Moment, id: WorkerId) {
        // One that is unwinding a failed start is counted when it has exited, with its reason.
        let Some(index) = self.slots.iter().position(|slot| slot.serving == Some(id)) else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        if !self.was_ready {
            let worker = self.workers.get(&id);
            let reason = worker.and_then(|worker| worker.reason.clone());
            let slot = u16::try_from(index).unwrap_or(u16::MAX);
            let reason =
                reason.unwrap_or_else(|| "it left before the service was ready".to_owned());
            self.give_up(
                now,
                Fatal::Boot {
                    worker: id,
                    slot,
                    reason,
                },
            );
            return;
        }
        let stable = self.was_stable(now, id);
        self.slots[index].serving = None;
        self.slot_failed(now, index, stable);
    }

    pub(super) fn failed(&mut self, id: WorkerId, reason: String) {
        if let Some(worker) = self.workers.get_mut(&id) {
            // The first reason is the cause; what follows are its consequences.
            worker.reason.get_or_insert(reason);
        }
    }

    pub(super) fn beats(&mut self, beats: &[(WorkerId, Moment)]) {
        for (id, at) in beats {
            if let Some(worker) = self.workers.get_mut(id) {
                worker.last_beat = worker.last_beat.max(*at);
            }
        }
    }

    pub(super) fn channel_closed(&mut self, now: Moment, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.channel_closed.get_or_insert(now);
        }
    }

    pub(super) fn exited(&mut self, now: Moment, id: WorkerId, exit: Exit, at: Moment) {
        let stable = self.was_stable(now, id);
        let member = self.is_member(id);
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        self.inherit_leases(now, id, &worker, at);
        let attached = self.detach(id);
        self.surplus.retain(|surplus| *surplus != id);
        let ends_boot = attached.is_some() && self.stop.is_none() && !self.was_ready;
        // Who was taken for stuck and left by itself after all was not.
        let expected = worker.is_leaving();
        let overdue = worker.overdue.filter(|_| !exit.is_clean());
        let known = worker.reason.or(overdue);
        self.notice(Notice::WorkerExited {
            worker: id,
            slot: worker.slot,
            generation: worker.generation,
            phase: worker.phase,
            exit,
            expected,
            // Told once: as the reason of the failed boot or reload, where it is one.
            reason: known.clone().filter(|_| !ends_boot && !member),
        });
        if let Some(stop) = &mut self.stop {
            stop.unclean |= !exit.is_clean();
            return;
        }
        let reason = known.unwrap_or_else(|| format!("{exit} while {}", worker.phase));
        if member {
            self.member_failed(now, worker.slot, &reason);
            return;
        }
        let Some(index) = attached else {
            return;
        };
        if self.was_ready {
            self.slot_failed(now, index, stable);
        } else {
            self.give_up(
                now,
                Fatal::Boot {
                    worker: id,
                    slot: worker.slot,
                    reason,
                },
            );
        }
    }

    /// Takes the worker out of its slot. `None`: it had none any more.
    fn detach(&mut self, id: WorkerId) -> Option<usize> {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            for place in [&mut slot.serving, &mut slot.incoming] {
                if *place == Some(id) {
                    *place = None;
                    return Some(index);
                }
            }
        }
        None
    }

    fn was_stable(&self, now: Moment, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| {
            worker
                .serving_since
                .is_some_and(|since| now.since(since) >= self.policy.stable_after)
        })
    }

    /// The slot lost a worker that nobody wanted to lose: when may the next one be forked?
    fn slot_failed(&mut self, now: Moment, index: usize, stable: bool) {
        self.crashes.record(now);
        let slot = &mut self.slots[index];
        slot.restarts = slot.restarts.saturating_add(1);
        slot.failures = if stable {
            0
        } else {
            slot.failures.saturating_add(1)
        };
        slot.cause = Cause::Failure;
        if slot.incoming.is_some() {
            // The next one is already on its way.
            return;
        }
        let failures = slot.failures;
        // The others get along without it for a while. If there are none, waiting helps nobody.
        let spared = self.crashes.exhausted() && self.someone_else_is_there(index);
        if failures == 0 && !spared {
            return;
        }
        let initial = if spared {
            self.policy.backoff_max
        } else {
            self.policy.backoff_initial
        };
        let delay = backoff::delay(failures, initial, self.policy.backoff_max, &mut self.random);
        self.slots[index].retry_at = Some(now + delay);
        let slot = u16::try_from(index).unwrap_or(u16::MAX);
        self.notice(Notice::BackingOff {
            slot,
            failures,
            delay,
        });
    }

    fn someone_else_is_there(&self, index: usize) -> bool {
        let mut others = self.slots.iter().enumerate();
        others.any(|(other, slot)| {
            other != index && (slot.serving.is_some() || slot.incoming.is_some())
        })
    }
}
