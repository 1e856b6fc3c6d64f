//! What one image of the arbiter leaves to the next: a versioned text in a sealed memory file, and descriptors
//! that keep their numbers.
//!
//! Two variables lead to it: `PAYLOAD_ADOPT` is the number of the file's descriptor; `PAYLOAD_REJECTED` says why
//! the image that should have taken over did not. Both stay as they are for ever: a binary that cannot read the
//! rest can still give it back.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::parent_id;

use serde::{Deserialize, Serialize};

use super::claim::ClaimState;
use super::core::Saved;
use super::kept::DepositsState;
use super::news::SavedNews;
use crate::config::{Snapshot, Surroundings};
use crate::control;
use crate::exit::{ExitCode, Failure, chain};
use crate::ipc::channel::cut;
use crate::ipc::scoreboard::Board;
use crate::moment::Moment;
use crate::sockets::{Origin, OwnPaths};
use crate::status::Scope;
use crate::sys;
use crate::systemd::notify;

/// The number of a descriptor, the same before and after.
pub(super) type Number = RawFd;

const ADOPT: &str = "PAYLOAD_ADOPT";
const REJECTED: &str = "PAYLOAD_REJECTED";
const PREFLIGHT: &str = "PAYLOAD_PREFLIGHT";

/// The version that this program writes. What arbiter and workers say to each other is no part of it: each side passes
/// over what it does not know, so that an older program can take workers of a newer one over. What somebody waits for
/// is not passed over: a lease that is given back is free, whatever way of giving it back that is
/// ([`lenient`](crate::lenient)). Something new that must not be passed over, a new order or report that a lease depends
/// on or a new scope, needs a new version here.
const VERSION: u32 = 2;
/// The oldest program that can read it, by the version that it writes itself.
const OLDEST_READER: u32 = 1;
/// The oldest that knows of leases that are withheld: one before it would grant them.
const KNOWS_WITHHELD: u32 = 2;

/// What every version can read of every other.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    oldest_reader: u32,
    /// The program's version, for people.
    written_by: String,
    /// The program to go back to.
    last: Option<Number>,
    /// All descriptors that come along, `last` among them.
    descriptors: Vec<Number>,
}

/// The whole of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) core: Saved,
    pub(super) scoreboard: Number,
    /// Bytes of one scoreboard: a change of its layout changes this, or else [`VERSION`].
    pub(super) scoreboard_size: usize,
    pub(super) children: Vec<ChildState>,
    pub(super) listeners: Vec<ListenerState>,
    pub(super) own_paths: OwnPaths,
    pub(super) control: Option<control::Parts<Number>>,
    pub(super) manager: notify::Settings,
    pub(super) program: Program,
    /// Of the generation that serves.
    pub(super) configuration: Snapshot,
    /// Of the image that wrote this.
    pub(super) own_configuration: Snapshot,
    /// Which control client waits for which trigger's answer.
    pub(super) waiting: Vec<(u64, u32)>,
    pub(super) next_trigger: u64,
    /// When the image that wrote this left. Older ones do not say it.
    #[serde(default)]
    pub(super) left_at: Option<Moment>,
    #[serde(default)]
    pub(super) news: SavedNews,
    /// Nor this.
    #[serde(default)]
    pub(super) deposits: DepositsState,
    /// Nor this.
    #[serde(default)]
    pub(super) claims: Vec<ClaimState>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChildState {
    pub(super) worker: u64,
    pub(super) pid: u32,
    pub(super) seat: usize,
    pub(super) channel: Option<Number>,
    /// Images that know no messages do not say it.
    #[serde(default)]
    pub(super) mailbox: Option<Number>,
    pub(super) payloads: Vec<String>,
    #[serde(default)]
    pub(super) scopes: Vec<Scope>,
    /// Workers of which it has still to be told. Older images forget it.
    #[serde(default)]
    pub(super) unmet: Vec<u64>,
    /// Messages of workers that are gone, of which it has still to be told. Older images forget them.
    #[serde(default)]
    pub(super) unsent: Vec<(String, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ListenerState {
    pub(super) fd: Number,
    pub(super) name: String,
    pub(super) origin: Origin,
    pub(super) wanted: Option<String>,
}

/// How the service was called.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Where the next binary is looked for.
    pub(super) path: OsString,
    pub(super) arguments: Vec<OsString>,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    #[serde(flatten)]
    head: Head,
    state: serde_json::Value,
}

impl State {
    /// `arbiter` is its pid.
    fn surroundings(&self, arbiter: u32) -> Surroundings {
        let mut origins = self.listeners.iter().map(|listener| listener.origin);
        Surroundings {
            watched: self.manager.is_watched(arbiter),
            own_sockets: !origins.any(|origin| origin == Origin::Passed),
        }
    }

    /// The sealed file, and the variables that lead to it. The descriptors in `along` must be all that the state
    /// names.
    pub(super) fn seal(
        &self,
        last: Option<BorrowedFd<'_>>,
        along: &[BorrowedFd<'_>],
    ) -> io::Result<OwnedFd> {
        use std::os::fd::AsRawFd;
        let file = File {
            head: Head {
                version: VERSION,
                oldest_reader: match self.core.withholds_leases() {
                    true => KNOWS_WITHHELD,
                    false => OLDEST_READER,
                },
                written_by: env!("CARGO_PKG_VERSION").to_owned(),
                last: last.map(|fd| fd.as_raw_fd()),
                descriptors: along.iter().map(AsRawFd::as_raw_fd).collect(),
            },
            state: serde_json::to_value(self)?,
        };
        sys::exec::sealed("payload-state", &serde_json::to_vec(&file)?)
    }
}

/// The variables for a program that is to take the state over.
pub(super) fn variables(file: &OwnedFd) -> Vec<(&'static str, OsString)> {
    use std::os::fd::AsRawFd;
    vec![(ADOPT, file.as_raw_fd().to_string().into())]
}

/// The variables for a program that is only to be tried.
pub(super) fn preflight_variables(
    file: &OwnedFd,
    verdict: &OwnedFd,
) -> Vec<(&'static str, OsString)> {
    use std::os::fd::AsRawFd;
    let mut variables = variables(file);
    variables.push((PREFLIGHT, verdict.as_raw_fd().to_string().into()));
    variables
}

/// How this process came to be.
pub(crate) enum Arrival {
    /// Started by somebody else.
    Fresh,
    /// It has taken over the process of another image.
    Inherited(Inherited),
    /// It is only tried.
    Preflight(Trial),
}

/// Looks at the variables, and unsets them. First of all in `main`, with the command line. `alone`: whether this process
/// can become an arbiter at all; if not, whoever has started it is told.
///
/// # Errors
/// It cannot. The variables make no sense, or cannot be unset and nothing can be given back.
pub(crate) fn arrival(
    arguments: &[OsString],
    alone: Result<(), Failure>,
) -> Result<Arrival, Failure> {
    let Some(file) = descriptor(ADOPT)? else {
        alone?;
        unset()?;
        return Ok(Arrival::Fresh);
    };
    let text = sys::exec::read_sealed(file.as_fd())
        .map_err(|error| refused(format!("read the state in {ADOPT}")).because(error))?;
    if let Some(verdict) = descriptor(PREFLIGHT)? {
        let trial = Trial { text, verdict };
        if let Err(failure) = alone {
            trial.tell(Some(&chain(&failure)));
            return Err(failure);
        }
        unset()?;
        return Ok(Arrival::Preflight(trial));
    }
    let inherited = Inherited::new(file, text)?;
    // From here on there is a way back, which needs no descriptor that is not there.
    match alone.and_then(|()| unset()) {
        Ok(()) => Ok(Arrival::Inherited(inherited)),
        Err(failure) => Err(inherited.give_back(arguments, &chain(&failure))),
    }
}

fn unset() -> Result<(), Failure> {
    sys::environment::take(&[ADOPT, REJECTED, PREFLIGHT])
        .map(drop)
        .map_err(|error| refused(format!("unset {ADOPT}")).because(error))
}

/// The descriptor of which the number stands in a variable.
fn descriptor(name: &str) -> Result<Option<OwnedFd>, Failure> {
    let Some(value) = std::env::var_os(name) else {
        return Ok(None);
    };
    let fd = value
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| "not a number".to_owned())
        .and_then(|raw| sys::fds::adopt(raw).map_err(|error| error.to_string()));
    fd.map(Some).map_err(|why| {
        refused(format!(
            "{name}={} is no descriptor ({why}); it is set by payload itself: unset it",
            value.display()
        ))
    })
}

fn refused(what: String) -> Failure {
    Failure::new(ExitCode::Os, what)
}

/// What the image before has left. As long as this exists, everything can be given back.
pub(crate) struct Inherited {
    file: OwnedFd,
    text: Vec<u8>,
    pub(super) last: Option<Number>,
    pub(super) descriptors: BTreeMap<Number, OwnedFd>,
    /// The image that should have taken over gave it back, and why.
    pub(super) rejected: Option<String>,
}

impl Inherited {
    /// Takes over every descriptor that came along.
    fn new(file: OwnedFd, text: Vec<u8>) -> Result<Self, Failure> {
        let head: Head = serde_json::from_slice(&text)
            .map_err(|error| refused(format!("the state in {ADOPT} has no head")).because(error))?;
        let mut descriptors = BTreeMap::new();
        for number in &head.descriptors {
            let fd = sys::fds::adopt(*number).map_err(|error| {
                refused(format!("descriptor {number} of the state")).because(error)
            })?;
            descriptors.insert(*number, fd);
        }
        let rejected = std::env::var_os(REJECTED);
        Ok(Self {
            file,
            text,
            last: head.last,
            descriptors,
            rejected: rejected.map(|reason| reason.to_string_lossy().into_owned()),
        })
    }

    /// # Errors
    /// Of another version, or no state at all.
    pub(super) fn read(&self) -> Result<State, Failure> {
        read(&self.text)
    }

    /// The configuration to use instead of what is on disk: if this image wrote the state and got it back, or if it
    /// is the one that the service goes back to.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn configuration(&self) -> Result<Option<Snapshot>, Failure> {
        let state = self.read()?;
        if self.rejected.is_some() {
            return Ok(Some(state.own_configuration));
        }
        let goes_back = state.core.goes_back();
        Ok(goes_back.then_some(state.configuration))
    }

    /// Where the service runs.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn surroundings(&self) -> Result<Surroundings, Failure> {
        Ok(self.read()?.surroundings(std::process::id()))
    }

    /// This image cannot take over: the last one goes on, and hears why. Returns when even that failed.
    pub(crate) fn give_back(&self, arguments: &[OsString], reason: &str) -> Failure {
        let failed = |error: io::Error| {
            Failure::new(
                ExitCode::Os,
                format!("{reason}; and the program before this one cannot be executed again"),
            )
            .because(error)
        };
        if let Some(before) = &self.rejected {
            // It has been to and fro already, and would be for ever.
            return failed(io::Error::other(format!("it refused: {before}")));
        }
        let last = self.last.and_then(|number| self.descriptors.get(&number));
        let Some(last) = last else {
            return failed(io::Error::other("there is none"));
        };
        let mut variables = variables(&self.file);
        variables.push((REJECTED, reason.replace(['\0', '\n'], " ").into()));
        let keep: Vec<BorrowedFd<'_>> = self
            .descriptors
            .values()
            .map(AsFd::as_fd)
            .chain([self.file.as_fd()])
            .collect();
        failed(sys::exec::replace(
            last.as_fd(),
            arguments,
            &variables,
            &keep,
        ))
    }
}

/// A program that is tried: it reads everything, changes nothing and says what it thinks.
pub(crate) struct Trial {
    text: Vec<u8>,
    verdict: OwnedFd,
}

/// What a tried program says, one line of JSON. Its being there at all tells a service of this kind from
/// whatever else may stand at the path.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Verdict {
    payload: String,
    pub(super) error: Option<String>,
}

impl Trial {
    /// Where the service runs.
    ///
    /// # Errors
    /// This program cannot take over that state.
    pub(crate) fn check_state(&self) -> Result<Surroundings, Failure> {
        let state = read(&self.text)?;
        if state.scoreboard_size != size_of::<Board>() {
            return Err(incompatible("its shared memory has another layout"));
        }
        Ok(state.surroundings(parent_id()))
    }

    pub(crate) fn tell(self, error: Option<&str>) {
        let verdict = Verdict {
            payload: env!("CARGO_PKG_VERSION").to_owned(),
            // More than a pipe holds would wait for a reader that waits for the end.
            error: error.map(cut),
        };
        let mut file = std::fs::File::from(self.verdict);
        // An arbiter that does not listen any more has given this check up.
        let _ = serde_json::to_writer(&mut file, &verdict);
    }
}

fn read(text: &[u8]) -> Result<State, Failure> {
    let file: File = serde_json::from_slice(text)
        .map_err(|error| incompatible("its state cannot be read").because(error))?;
    if VERSION < file.head.oldest_reader {
        return Err(incompatible(&format!(
            "its state is of version {}, written by payload {}, and this is payload {}",
            file.head.version,
            file.head.written_by,
            env!("CARGO_PKG_VERSION")
        )));
    }
    serde_json::from_value(file.state)
        .map_err(|error| incompatible("its state cannot be read").because(error))
}

fn incompatible(why: &str) -> Failure {
    Failure::new(
        ExitCode::Software,
        format!(
            "this binary cannot take over the running service: {why}; restart the service instead of reloading it"
        ),
    )
}
