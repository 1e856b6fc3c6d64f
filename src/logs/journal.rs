//! Records for systemd-journald, encoded by tracing-journald and sent by us.
//!
//! The crate sends each record itself, on a socket of its own that blocks while journald's queue is full, and
//! forgets errors. A journald that is stopped would then stop the arbiter and every worker. So the crate's
//! socket, which it keeps private, is replaced by one end of a socket pair: the crate "sends" into the pair
//! (a connected SOCK_SEQPACKET socket takes no address, unix(7)), we take the record out of the other end,
//! add who we are, and send it without waiting. What journald does not take is counted.

mod message;

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg, setsockopt, sockopt};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::process::{DROPPED, Process, ProcessIdentity};
use crate::sys::fds::{Captured, replace};
use crate::sys::records;

/// Where tracing-journald sends to, and so do we.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// The layer that encodes, and hands on what it encoded.
pub(super) struct JournalLayer {
    encoder: tracing_journald::Layer,
    wire: Arc<Wire>,
}

/// The descriptors between the encoder and journald. Each process has its own: after a fork the pair would
/// mix the records of parent and child.
#[derive(Debug)]
pub(super) struct Wire {
    /// The encoder's socket: our end of the pair stands in its place.
    encoder: Captured,
    tap: OwnedFd,
    outlet: Outlet,
    identifier: String,
    process: Arc<Process>,
}

impl JournalLayer {
    /// Connects to journald. No other thread may open or close a descriptor meanwhile; see
    /// [`Captured::from_opening`].
    ///
    /// # Errors
    /// journald is not there or takes nothing, or no descriptor is left.
    pub(super) fn open(identifier: &str, process: Arc<Process>) -> io::Result<Self> {
        let outlet = Outlet::to(Path::new(SOCKET))?;
        // The crate begins with a record of its own, and would wait for a journald that is stopped.
        outlet.send(b"")?;
        let (encoder, captured) = Captured::from_opening(tracing_journald::layer)?;
        let (inlet, tap) = records::pair()?;
        replace(captured, &inlet)?;
        let encoder = encoder
            .with_field_prefix(None)
            .with_syslog_identifier(identifier.to_owned())
            .with_priority_mappings(PriorityMappings {
                info: Priority::Informational,
                debug: Priority::Debug,
                ..PriorityMappings::new()
            });
        let wire = Arc::new(Wire {
            encoder: captured,
            tap,
            outlet,
            identifier: identifier.to_owned(),
            process,
        });
        Ok(Self { encoder, wire })
    }

    pub(super) fn wire(&self) -> Arc<Wire> {
        Arc::clone(&self.wire)
    }
}

impl Wire {
    /// After a fork, in the child and while it has one thread: its own pair and its own socket.
    ///
    /// # Errors
    /// No descriptor is left. Records may then get lost or come from the wrong worker.
    pub(super) fn renew(&self) -> io::Result<()> {
        let (inlet, tap) = records::pair()?;
        let outlet = Outlet::to(&self.outlet.path)?;
        replace(self.encoder, &inlet)?;
        replace(&self.tap, &tap)?;
        replace(&self.outlet.socket, &OwnedFd::from(outlet.socket))
    }

    /// Sends on what the encoder has just written. Every thread takes one record for each that it wrote, so
    /// none stays behind, and which thread takes which does not matter.
    fn forward(&self) {
        let went_through = match records::take(&self.tap) {
            Ok(Some(mut record)) => {
                put_identity(&mut record, self.process.identity());
                self.outlet.send(&message::complete(&record)).is_ok()
            }
            Ok(None) | Err(_) => false,
        };
        self.process.written(went_through, |lost| self.tell(lost));
    }

    /// One record about what was lost. It cannot come as an event: a layer may not emit one.
    fn tell(&self, lost: u64) -> bool {
        let mut record = format!(
            "PRIORITY=4\nSYSLOG_IDENTIFIER={}\nTARGET={}\nMESSAGE={DROPPED}\nDROPPED={lost}\n",
            self.identifier,
            module_path!()
        )
        .into_bytes();
        put_identity(&mut record, self.process.identity());
        self.outlet.send(&message::complete(&record)).is_ok()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JournalLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.encoder.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.encoder.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        self.encoder.on_event(event, context);
        self.wire.forward();
    }
}

/// A socket that sends records to journald and never waits.
#[derive(Debug)]
struct Outlet {
    socket: UnixDatagram,
    path: PathBuf,
    address: UnixAddr,
}

impl Outlet {
    fn to(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // As libsystemd does: it rides out a busy moment of journald. The system's limit may be lower.
        let _ = setsockopt(&socket, sockopt::SndBuf, &(8 * 1024 * 1024));
        Ok(Self {
            socket,
            path: path.to_owned(),
            address: UnixAddr::new(path)?,
        })
    }

    /// One record: as a datagram, or in a sealed memfd where it is too large for one.
    fn send(&self, record: &[u8]) -> io::Result<()> {
        match self.socket.send_to(record, &self.path) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
                self.send_memfd(record)
            }
            sent => sent.map(drop),
        }
    }

    fn send_memfd(&self, record: &[u8]) -> io::Result<()> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut file = std::fs::File::from(memfd_create("payload-log-record", flags)?);
        file.write_all(record)?;
        // journald maps it only when nobody can change it any more.
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
        let fds = [file.as_raw_fd()];
        sendmsg(
            self.socket.as_raw_fd(),
            &[],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            Some(&self.address),
        )?;
        Ok(())
    }
}

/// Says which worker a record comes from. systemd.journal-fields(7): the names are upper case.
fn put_identity(record: &mut Vec<u8>, identity: ProcessIdentity) {
    if let ProcessIdentity::Worker {
        worker,
        slot,
        generation,
    } = identity
    {
        // Writing into a Vec cannot fail.
        let _ = write!(
            record,
            "PAYLOAD_WORKER={worker}\nPAYLOAD_SLOT={slot}\nPAYLOAD_GENERATION={generation}\n"
        );
    }
}

#[cfg(test)]
mod tests;
