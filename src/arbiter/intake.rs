//! What the kernel, the workers and the control clients say, as events for the core.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::signal::Signal;

use super::core::{Event, Exit, Request, Want, WorkerId};
use super::hearing::{Rest, hear};
use super::journal;
use super::shell::{Shell, now};
use crate::control;
use crate::ipc::bulletin::Declared;
use crate::ipc::channel::{Channel, Report};
use crate::ipc::orders::Level;
use crate::sys;
use crate::sys::process::Reaped;
use crate::sys::signals::Signals;

/// What a readable descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Signals,
    Control(u32),
    /// Something of the manager's store.
    Store,
    /// Processes of an earlier life.
    Rival,
    Worker(WorkerId),
}

impl Shell {
    pub(super) fn take_signals(&mut self) -> io::Result<()> {
        while let Some((signal, from)) = self.equipment.signals.next()? {
            let request = match signal {
                Signal::SIGCHLD => {
                    self.reap();
                    continue;
                }
                Signal::SIGTERM => Request::Stop(Level::Graceful),
                // RestartKillSignal= of the unit.
                Signal::SIGUSR2 => Request::Restart,
                Signal::SIGINT | Signal::SIGQUIT => Request::Stop(Level::Quick),
                Signal::SIGTTIN => Request::OneMore,
                Signal::SIGTTOU => Request::OneLess,
                Signal::SIGHUP => Request::Reload(self.trigger(None)),
                _ => {
                    tracing::info!(signal = signal.as_str(), from, "signal ignored");
                    continue;
                }
            };
            journal::signal(signal, from);
            self.events.push_back(Event::Asked(request));
        }
        Ok(())
    }

    /// One SIGCHLD can stand for many ends. Processes that are not ours (an adopted orphan, where this is
    /// PID 1) are reaped and mean nothing.
    pub(super) fn reap(&mut self) {
        while let Some(reaped) = sys::process::reap() {
            let (pid, exit) = match reaped {
                Reaped::Exited { pid, code } => (pid, Exit::Code(code)),
                Reaped::Signaled { pid, signal } => (pid, Exit::Signal(signal)),
            };
            self.helpers.reaped(pid);
            let Some(worker) = self.children.by_pid(pid) else {
                if !self.preflight_ended(pid, exit) {
                    tracing::debug!(pid, exit = %exit, "reaped a process that is no worker");
                }
                continue;
            };
            // What it said last is still in its channel.
            while self.take_batch(worker) {}
            let at = self.ended_at(worker);
            let child = self.children.remove(worker);
            self.tell_unsent();
            unwatch(&self.epoll, child.and_then(|child| child.channel));
            self.events.push_back(Event::Exited { worker, exit, at });
        }
    }

    /// Takes a batch of what a worker has said.
    pub(super) fn take_reports(&mut self, worker: WorkerId) {
        self.take_batch(worker);
    }

    /// True: there may be more.
    fn take_batch(&mut self, worker: WorkerId) -> bool {
        let Some(child) = self.children.get_mut(worker) else {
            return false;
        };
        let Some(channel) = &child.channel else {
            return false;
        };
        let heard = hear(channel);
        if let Some(error) = heard.unreadable
            && !std::mem::replace(&mut child.is_strange, true)
        {
            tracing::warn!(
                payload_worker = worker.0,
                error,
                "a worker says what is not known here: it is passed over, now and from here on"
            );
        }
        if heard.rest == Rest::End {
            unwatch(&self.epoll, child.channel.take());
        }
        for (report, file) in heard.reports {
            self.take_report(worker, report, file);
        }
        if heard.rest == Rest::End {
            self.events.push_back(Event::ChannelClosed { worker });
        }
        heard.rest == Rest::More
    }

    fn take_report(&mut self, worker: WorkerId, report: Report, file: Option<OwnedFd>) {
        let slot = self.children.slot_of(worker);
        let Some(child) = self.children.get_mut(worker) else {
            return;
        };
        let event = match report {
            Report::Entered { phase } => Event::Entered { worker, phase },
            Report::Failed { reason } => Event::Failed { worker, reason },
            Report::Recycle { cause } => Event::Recycle { worker, cause },
            Report::Paused { round } => Event::Paused { worker, round },
            Report::Happened { event } => {
                self.news.happened(worker, *event);
                return;
            }
            Report::Unmet { worker: other } => {
                child.unmet.insert(WorkerId(other));
                return;
            }
            Report::Unsent {
                worker: other,
                topics,
            } => {
                if let Some(other) = self.children.get_mut(WorkerId(other)) {
                    other.unsent.extend(topics);
                    self.tell_unsent();
                }
                return;
            }
            Report::Payloads {
                names,
                scopes,
                once,
            } => {
                let wants = Want::of(&names, &scopes, &once);
                self.news.declared(Declared {
                    worker: worker.0,
                    names: names.clone(),
                    scopes: scopes.clone(),
                });
                child.payloads = names;
                child.scopes = scopes;
                Event::Wants { worker, wants }
            }
            Report::Kept { payload, epoch } => {
                let lease = child.lease_of(payload, slot);
                match self.deposits.take(lease, file) {
                    Ok(deposit) => Event::Kept {
                        worker,
                        payload,
                        epoch,
                        deposit,
                    },
                    Err(error) => {
                        journal::not_kept(worker, &error);
                        return;
                    }
                }
            }
            Report::Released {
                payload,
                epoch,
                how,
                at,
            } => Event::Released {
                worker,
                payload,
                epoch,
                how,
                at,
            },
        };
        self.events.push_back(event);
    }

    /// Closes the channel to a worker, which drains and leaves then.
    pub(super) fn hang_up(&mut self, worker: WorkerId) {
        let child = self.children.get(worker);
        let Some(channel) = child.and_then(|child| child.channel.as_ref()) else {
            return;
        };
        // What it has said counts, also what it keeps: it may just have been killed. It says no more.
        channel.refuse_more();
        while self.take_batch(worker) {}
        let child = self.children.get_mut(worker);
        if let Some(channel) = child.and_then(|child| child.channel.take()) {
            unwatch(&self.epoll, Some(channel));
            self.events.push_back(Event::ChannelClosed { worker });
        }
    }

    pub(super) fn serve_control(&mut self, client: u32) {
        let Some(mut control) = self.equipment.control.take() else {
            return;
        };
        let answer = |command: control::Command| match command {
            control::Command::Status {} => Some(control::Answer::Status(Box::new(self.view()))),
            control::Command::Reload {} => {
                let trigger = self.trigger(Some(client));
                self.events
                    .push_back(Event::Asked(Request::Reload(trigger)));
                None
            }
        };
        let new = control.ready(client, now(), answer);
        self.equipment.control = Some(control);
        self.watch_clients(&new);
    }

    pub(super) fn watch_clients(&self, new: &[u32]) {
        for number in new {
            let client = self
                .equipment
                .control
                .as_ref()
                .and_then(|control| control.client(*number));
            if let Some(Err(error)) = client.map(|fd| watch_client(&self.epoll, fd, *number)) {
                tracing::warn!(error = %error, "a control client cannot be watched");
            }
        }
    }
}

/// # Errors
/// No memory, no descriptors.
pub(super) fn open_epoll(signals: &Signals) -> io::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    watch(&epoll, signals, Source::Signals)?;
    Ok(epoll)
}

/// # Errors
/// No memory, or too much is watched already.
pub(super) fn watch(epoll: &Epoll, fd: impl AsFd, source: Source) -> io::Result<()> {
    Ok(epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, source.into()))?)
}

/// The listening control socket, edge-triggered.
///
/// # Errors
/// As [`watch`].
pub(super) fn watch_control(epoll: &Epoll, fd: impl AsFd) -> io::Result<()> {
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    let source = Source::Control(control::Server::LISTENER);
    Ok(epoll.add(fd, EpollEvent::new(flags, source.into()))?)
}

/// A control client, edge-triggered for both directions: its number stands for its stream until it is dropped.
///
/// # Errors
/// As [`watch`].
pub(super) fn watch_client(epoll: &Epoll, fd: impl AsFd, number: u32) -> io::Result<()> {
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
    let source = Source::Control(number);
    Ok(epoll.add(fd, EpollEvent::new(flags, source.into()))?)
}

/// Takes a channel out of epoll before it is closed. A process that was forked in between may hold a copy of it
/// for a moment: then closing alone would leave it registered, and its end would be reported for ever.
fn unwatch(epoll: &Epoll, channel: Option<Channel>) {
    if let Some(channel) = channel {
        // It is not there when it could not be watched in the first place.
        let _ = epoll.delete(&channel);
    }
}

impl From<Source> for u64 {
    fn from(source: Source) -> u64 {
        match source {
            Source::Signals => 0,
            Source::Control(client) => (1 << 32) | u64::from(client),
            Source::Store => 2 << 32,
            Source::Rival => 3 << 32,
            Source::Worker(worker) => (1 << 63) | worker.0,
        }
    }
}

impl From<u64> for Source {
    fn from(data: u64) -> Source {
        if data >> 63 == 1 {
            Source::Worker(WorkerId(data & !(1 << 63)))
        } else if data >> 32 == 1 {
            Source::Control(u32::try_from(data & 0xFFFF_FFFF).unwrap_or(u32::MAX))
        } else if data >> 32 == 2 {
            Source::Store
        } else if data >> 32 == 3 {
            Source::Rival
        } else {
            Source::Signals
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_the_way_through_epoll() {
        for source in [
            Source::Signals,
            Source::Control(0),
            Source::Control(u32::MAX),
            Source::Store,
            Source::Rival,
            Source::Worker(WorkerId(1)),
            Source::Worker(WorkerId(u64::MAX >> 1)),
        ] {
            assert_eq!(Source::from(u64::from(source)), source);
        }
    }
}
