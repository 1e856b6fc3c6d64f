//! The shell's part of a reload: the check of the binary on disk, the change of images, and the answers.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use nix::sys::epoll::Epoll;
use nix::sys::signal::Signal;

use super::claim::Claims;
use super::core::{Core, Event, Exit, Image, Trigger, WorkerId};
use super::image::{Check, Images};
use super::intake::{Source, open_epoll, watch, watch_client, watch_control};
use super::journal;
use super::kept::Deposits;
use super::news::News;
use super::seats::{Child, Children};
use super::shell::{Equipment, Shell, now, signal};
use super::state::{self, ChildState, Inherited, ListenerState, Number, State};
use super::store::Store;
use crate::author::Author;
use crate::control;
use crate::exit::{ExitCode, Failure};
use crate::ipc::bulletin::Declared;
use crate::ipc::channel::Channel;
use crate::ipc::scoreboard::{self, Board, Scoreboard};
use crate::messages::Tally;
use crate::sockets::{Listener, ListenerAddress, OwnPaths};
use crate::sys;
use crate::sys::exec::Executable;
use crate::sys::signals::Signals;
use crate::systemd::notify;

impl Shell {
    /// Who asked, and which control client waits for the answer.
    pub(super) fn trigger(&mut self, client: Option<u32>) -> Trigger {
        self.next_trigger += 1;
        if let Some(client) = client {
            self.waiting.insert(self.next_trigger, client);
        }
        Trigger(self.next_trigger)
    }

    pub(super) fn answer(&mut self, trigger: Trigger, outcome: Result<u32, String>) {
        let Some(client) = self.waiting.remove(&trigger.0) else {
            return;
        };
        let answer = match outcome {
            Ok(generation) => control::Answer::Reloaded { generation },
            Err(reason) => control::Answer::ReloadFailed(reason),
        };
        if let Some(control) = &mut self.equipment.control {
            control.answer(client, now(), &answer);
        }
    }

    /// Starts the check. Whatever comes of it comes as an event.
    pub(super) fn preflight(&mut self) {
        let state = self
            .state(Image::Next)
            .seal(None, &[])
            .map_err(|error| format!("the state could not be written: {error}"));
        let check = state.and_then(|state| Check::start(&self.equipment.images.program, &state));
        match check {
            Ok(check) => self.equipment.images.check = Some(check),
            Err(reason) => self.events.push_back(Event::Preflighted(Err(reason))),
        }
    }

    pub(super) fn end_preflight(&mut self) {
        if let Some(check) = self.equipment.images.check.take() {
            signal(check.pid, Signal::SIGKILL);
        }
    }

    /// A child that is no worker has ended. True: it was the check.
    pub(super) fn preflight_ended(&mut self, pid: u32, exit: Exit) -> bool {
        let images = &mut self.equipment.images;
        match images.check.take_if(|check| check.pid == pid) {
            Some(check) => {
                let result = check.judge(exit).map(|next| images.next = Some(next));
                self.events.push_back(Event::Preflighted(result));
                true
            }
            None => false,
        }
    }

    /// Goes over to the image, or says why not.
    pub(super) fn exec(&mut self, image: Image) -> Event {
        let error = match self.try_exec(image) {
            Ok(never) => match never {},
            Err(error) => error.to_string(),
        };
        let images = &mut self.equipment.images;
        images.next = None;
        if image == Image::Last {
            images.last = None;
        }
        Event::ExecFailed { error }
    }

    fn try_exec(&mut self, image: Image) -> io::Result<std::convert::Infallible> {
        self.equipment.notifier.flush();
        self.tell_workers(now());
        // On the way back too: what cannot take over gives back to this one.
        let own = Executable::own()?;
        let images = &self.equipment.images;
        let target = match image {
            Image::Next => images.next.as_ref(),
            Image::Last => images.last.as_ref().map(|(last, _)| last),
        };
        let target = target.ok_or_else(|| io::Error::other("there is no such program"))?;
        let mut along = self.descriptors();
        along.push(own.as_fd());
        let file = self.state(image).seal(Some(own.as_fd()), &along)?;
        along.push(file.as_fd());
        let arguments = &images.program.arguments;
        let variables = state::variables(&file);
        Err(sys::exec::replace(
            target.as_fd(),
            arguments,
            &variables,
            &along,
        ))
    }

    /// The reload is over: lets go of the other image's program, and of the listeners that only it has.
    pub(super) fn release(&mut self) {
        self.equipment.images.last = None;
        self.equipment.images.next = None;
        for listener in std::mem::take(&mut self.equipment.surplus) {
            if let ListenerAddress::UnixPath(path) = &listener.address {
                self.equipment.own_paths.split_off(path).remove();
            }
            tracing::info!(address = %listener.address, "no longer listening");
        }
        self.release_claims();
    }

    fn state(&self, image: Image) -> State {
        let images = &self.equipment.images;
        let configuration = match (image, &images.last) {
            (Image::Last, Some((_, configuration))) => configuration,
            _ => &images.configuration,
        };
        State {
            core: self.core.save(),
            scoreboard: self.children.board.as_fd().as_raw_fd(),
            scoreboard_size: size_of::<Board>(),
            children: self.children.iter().map(child_state).collect(),
            listeners: self.all_listeners().map(listener_state).collect(),
            own_paths: self.equipment.own_paths.clone(),
            control: self
                .equipment
                .control
                .as_ref()
                .and_then(|control| control.parts().map(|fd| Some(fd.as_raw_fd()))),
            manager: self.equipment.manager.clone(),
            program: images.program.clone(),
            configuration: configuration.clone(),
            own_configuration: images.configuration.clone(),
            waiting: self.waiting.clone().into_iter().collect(),
            next_trigger: self.next_trigger,
            left_at: Some(now()),
            news: self.news.save(),
            deposits: self.deposits.state(),
            claims: self.claims.state(),
        }
    }

    /// Every descriptor that [`state`](Self::state) names.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = vec![self.children.board.as_fd()];
        let channels = self
            .children
            .iter()
            .filter_map(|(_, child)| child.channel.as_ref());
        all.extend(channels.map(AsFd::as_fd));
        let mailboxes = self
            .children
            .iter()
            .filter_map(|(_, child)| child.mailbox.as_ref());
        all.extend(mailboxes.map(AsFd::as_fd));
        all.extend(self.all_listeners().map(AsFd::as_fd));
        all.extend(self.deposits.iter().map(AsFd::as_fd));
        all.extend(self.claims.descriptors());
        if let Some(control) = &self.equipment.control {
            let parts = control.parts();
            all.push(parts.listener);
            all.extend(parts.clients.into_iter().map(|client| client.stream));
        }
        all
    }

    fn all_listeners(&self) -> impl Iterator<Item = &Listener> {
        self.equipment
            .listeners
            .iter()
            .chain(&self.equipment.surplus)
    }

    /// The shell of a service that already runs, in a new image.
    ///
    /// # Errors
    /// The inheritance as it was, and why it cannot be taken over.
    pub(crate) fn adopt(
        new: NewImage,
        inherited: Inherited,
    ) -> Result<Self, (Box<Inherited>, Failure)> {
        match inherited.open(&new.signals) {
            Ok(opened) => Ok(Self::go_on(new, inherited, opened)),
            Err(failure) => {
                new.own_paths.remove();
                Err((Box::new(inherited), failure))
            }
        }
    }

    /// The point of no return: what could fail has not.
    fn go_on(new: NewImage, inherited: Inherited, opened: Opened) -> Self {
        let Inherited {
            mut descriptors,
            last,
            rejected,
            ..
        } = inherited;
        let Opened {
            state,
            board,
            epoll,
        } = opened;
        let mut take = |number: Number| descriptors.remove(&number);
        let earlier_drops = board.header.log_drops.load(Relaxed);
        let mut children = Children::new(board);
        let mut news = News::restore(state.news);
        for child in state.children {
            let mut unsent = Tally::default();
            unsent.extend(child.unsent);
            let channel = child.channel.and_then(&mut take).map(Channel::from);
            news.declared(Declared {
                worker: child.worker,
                names: child.payloads.clone(),
                scopes: child.scopes.clone(),
            });
            let mailbox = child.mailbox.and_then(&mut take);
            children.adopt(
                WorkerId(child.worker),
                Child {
                    pid: child.pid,
                    seat: child.seat,
                    channel,
                    mailbox,
                    payloads: child.payloads,
                    scopes: child.scopes,
                    unmet: child.unmet.into_iter().map(WorkerId).collect(),
                    unsent,
                    is_strange: false,
                },
            );
        }
        let control = state
            .control
            .and_then(|parts| parts.map(&mut take))
            .map(control::Server::assemble);
        let deposits = Deposits::assemble(state.deposits, &mut take);
        let wanted = new.kept.iter().chain(&new.bound).chain(&new.surplus);
        let claims = Claims::adopt(wanted, state.claims, &mut take);
        let last = last.and_then(&mut take).map(Executable::from);
        let policy = super::core::Policy::new(&new.config, new.notifier.watchdog_interval());
        let mut images = Images::new(state.program, new.configuration);
        let resume = match rejected {
            Some(error) => Event::ExecFailed { error },
            None => {
                images.last = last.map(|last| (last, state.configuration));
                Event::Resume
            }
        };
        new.bound.iter().for_each(journal::socket);
        let listeners: Vec<Listener> = new.kept.into_iter().chain(new.bound).collect();
        let mut own_paths = state.own_paths;
        own_paths.append(new.own_paths);
        let equipment = Equipment {
            config: new.config,
            listeners: listeners.into(),
            surplus: new.surplus,
            own_paths,
            notifier: new.notifier,
            manager: state.manager,
            signals: new.signals,
            control,
            images,
            store: Store::default(),
            name: new.name,
            author: new.author,
        };
        // Who was not taken over comes back to where it began.
        let direction = match (&resume, state.core.goes_back()) {
            (Event::Resume, false) | (Event::ExecFailed { .. }, true) => "forward",
            _ => "back",
        };
        let core = Core::adopt(
            policy,
            fastrand::u64(..),
            state.core,
            sys::clock::unix_micros(),
            now(),
        );
        let mut shell = Self::assemble(core, children, equipment, epoll, news);
        shell.waiting = state.waiting.into_iter().collect::<BTreeMap<_, _>>();
        shell.next_trigger = state.next_trigger;
        shell.earlier_drops = earlier_drops;
        shell.deposits = deposits;
        shell.claims = claims;
        shell.events.push_back(resume);
        shell.resume_claims();
        shell.blind_since = state.left_at;
        // Who ended during the exec: its SIGCHLD is gone. A pending one is discarded when the disposition is set.
        shell.reap();
        let took = state.left_at.map(|left| now().since(left));
        journal::image(&shell.equipment.images.program, direction, took);
        shell
    }
}

/// What a new image has made ready by itself before it takes the service over.
pub(crate) struct NewImage {
    pub(crate) config: std::sync::Arc<crate::config::Config>,
    pub(crate) configuration: crate::config::Snapshot,
    /// Listeners that it has from the image before.
    pub(crate) kept: Vec<Listener>,
    pub(crate) bound: Vec<Listener>,
    /// Listeners of the image before that it does not want.
    pub(crate) surplus: Vec<Listener>,
    /// Of those in `bound`.
    pub(crate) own_paths: OwnPaths,
    pub(crate) notifier: notify::Notifier,
    pub(crate) signals: Signals,
    pub(crate) name: std::sync::Arc<str>,
    pub(crate) author: Box<dyn Author>,
}

impl Inherited {
    /// Copies of the listeners, for the image to choose from. The inheritance keeps its own until it is taken over.
    ///
    /// # Errors
    /// No descriptors, or a state that cannot be read.
    pub(crate) fn listeners(&self) -> Result<Vec<Listener>, Failure> {
        let os = |error: io::Error| {
            Failure::new(ExitCode::Os, "take over the listening sockets").because(error)
        };
        self.read()?
            .listeners
            .into_iter()
            .map(|listener| {
                let fd = self.copy(listener.fd).map_err(os)?;
                Ok(Listener {
                    address: ListenerAddress::of(&fd).map_err(os)?,
                    fd,
                    name: listener.name,
                    origin: listener.origin,
                    wanted: listener.wanted,
                })
            })
            .collect()
    }

    /// # Errors
    /// The state cannot be read.
    pub(crate) fn manager(&self) -> Result<notify::Settings, Failure> {
        Ok(self.read()?.manager)
    }

    /// Does everything of a take-over that can fail, and changes nothing that could not be given back.
    fn open(&self, signals: &Signals) -> Result<Opened, Failure> {
        let state = self.read()?;
        let board = self
            .copy(state.scoreboard)
            .and_then(scoreboard::adopt)
            .map_err(|error| {
                Failure::new(ExitCode::Os, "take over the scoreboard").because(error)
            })?;
        let epoll = self.watch(&state, signals).map_err(|error| {
            Failure::new(ExitCode::Os, "watch the workers and the control socket").because(error)
        })?;
        Ok(Opened {
            state,
            board,
            epoll,
        })
    }

    /// Watches by the numbers that the descriptors keep.
    fn watch(&self, state: &State, signals: &Signals) -> io::Result<Epoll> {
        let epoll = open_epoll(signals)?;
        for child in &state.children {
            if let Some(channel) = child.channel {
                let source = Source::Worker(WorkerId(child.worker));
                watch(&epoll, self.descriptor(channel)?, source)?;
            }
        }
        if let Some(control) = &state.control {
            watch_control(&epoll, self.descriptor(control.listener)?)?;
            for client in &control.clients {
                watch_client(&epoll, self.descriptor(client.stream)?, client.number)?;
            }
        }
        Ok(epoll)
    }

    fn copy(&self, number: Number) -> io::Result<OwnedFd> {
        self.descriptor(number)?.try_clone()
    }

    fn descriptor(&self, number: Number) -> io::Result<&OwnedFd> {
        let fd = self.descriptors.get(&number);
        fd.ok_or_else(|| io::Error::other(format!("descriptor {number} did not come along")))
    }
}

/// An inheritance that can be taken over.
struct Opened {
    state: State,
    board: Scoreboard,
    epoll: Epoll,
}

fn child_state((worker, child): (WorkerId, &Child)) -> ChildState {
    ChildState {
        worker: worker.0,
        pid: child.pid,
        seat: child.seat,
        channel: child.channel.as_ref().map(AsRawFd::as_raw_fd),
        mailbox: child.mailbox.as_ref().map(AsRawFd::as_raw_fd),
        payloads: child.payloads.clone(),
        scopes: child.scopes.clone(),
        unmet: child.unmet.iter().map(|other| other.0).collect(),
        unsent: child.unsent.list(),
    }
}

fn listener_state(listener: &Listener) -> ListenerState {
    ListenerState {
        fd: listener.fd.as_raw_fd(),
        name: listener.name.clone(),
        origin: listener.origin,
        wanted: listener.wanted.clone(),
    }
}
