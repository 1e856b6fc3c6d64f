//! Lines on standard error, without ever waiting for whoever reads them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{SFlag, fstat};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::fields::{Fields, Value};
use super::line::{Line, now};
use super::process::{DROPPED, Process};

/// The layer that writes lines.
pub(super) struct Lines {
    pub(super) style: Style,
    pub(super) sink: Sink,
    pub(super) process: Arc<Process>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Human { with_colour: bool },
    Json,
}

impl Lines {
    fn write(&self, line: &Line<'_>) -> bool {
        let text = match self.style {
            Style::Human { with_colour } => line.human(with_colour),
            Style::Json => line.json(),
        };
        self.sink.write(text.as_bytes())
    }

    /// One line about what was lost. It cannot come as an event: a layer may not emit one.
    fn tell(&self, lost: u64) -> bool {
        let fields = Fields {
            message: String::new(),
            rest: vec![("dropped", Value::Count(lost))],
        };
        self.write(&Line {
            time: now(),
            level: Level::WARN,
            identity: self.process.identity(),
            target: module_path!(),
            message: DROPPED,
            fields: vec![&fields],
        })
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans: Vec<_> = context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
            .collect();
        let extensions: Vec<_> = spans.iter().map(|span| span.extensions()).collect();
        let around = extensions
            .iter()
            .filter_map(|extensions| extensions.get::<Fields>());
        let went_through = self.write(&Line {
            time: now(),
            level: *event.metadata().level(),
            identity: self.process.identity(),
            target: event.metadata().target(),
            message: &fields.message,
            fields: around.chain([&fields]).collect(),
        });
        self.process.written(went_through, |lost| self.tell(lost));
    }
}

/// An open file that is written to without waiting.
///
/// O_NONBLOCK belongs to the open file description, which standard error shares with the shell and every
/// sibling, so it must not be set there.
#[derive(Debug)]
pub(super) struct Sink {
    way: Way,
    /// The last line was cut off in its middle.
    is_torn: AtomicBool,
}

#[derive(Debug)]
enum Way {
    /// A pipe or terminal, opened once more: a description of our own, non-blocking.
    Own(File),
    /// A socket: each send says that it does not wait.
    Socket(OwnedFd),
    /// A file on disk never waits for a reader. For what cannot be opened once more, poll(2) is asked first.
    Shared(OwnedFd),
}

impl Sink {
    /// Standard error.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub(super) fn stderr() -> io::Result<Self> {
        Self::on(io::stderr().as_fd())
    }

    fn on(file: BorrowedFd<'_>) -> io::Result<Self> {
        let mode = fstat(file).map_or(0, |stat| stat.st_mode);
        let copy = file.try_clone_to_owned()?;
        let way = match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
            SFlag::S_IFSOCK => Way::Socket(copy),
            // Opened once more it would begin at its start.
            SFlag::S_IFREG => Way::Shared(copy),
            _ => OpenOptions::new()
                .write(true)
                .custom_flags(O_NONBLOCK | O_NOCTTY)
                .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
                .map_or(Way::Shared(copy), Way::Own),
        };
        Ok(Self {
            way,
            is_torn: AtomicBool::new(false),
        })
    }

    /// Writes a whole line or as much as there is room for; `false`: not all of it.
    ///
    /// A line of up to 4096 bytes reaches a pipe whole or not at all (pipe(7)).
    fn write(&self, line: &[u8]) -> bool {
        if self.is_torn.load(Relaxed) {
            if self.write_some(b"\n") != 1 {
                return false;
            }
            self.is_torn.store(false, Relaxed);
        }
        let mut written = 0;
        while written < line.len() {
            match self.write_some(&line[written..]) {
                0 => break,
                more => written += more,
            }
        }
        if written > 0 && written < line.len() {
            self.is_torn.store(true, Relaxed);
        }
        written == line.len()
    }

    /// How many bytes went out; 0 when it would have to wait, or fails.
    fn write_some(&self, bytes: &[u8]) -> usize {
        const WITHOUT_WAITING: usize = 4096;
        loop {
            let written = match &self.way {
                Way::Own(file) => nix::unistd::write(file, bytes),
                Way::Socket(socket) => send(
                    socket.as_raw_fd(),
                    bytes,
                    MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
                ),
                Way::Shared(file) if !is_writable(file) => return 0,
                // What poll calls writable has room for this much (pipe(7)).
                Way::Shared(file) => {
                    nix::unistd::write(file, &bytes[..bytes.len().min(WITHOUT_WAITING)])
                }
            };
            match written {
                Err(Errno::EINTR) => {}
                written => return written.unwrap_or(0),
            }
        }
    }
}

fn is_writable(file: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::unix::net::UnixStream;
    use tracing_subscriber::layer::SubscriberExt;

    fn read_all(mut reader: impl Read) -> String {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    /// A subscriber for one thread of a test.
    fn lines(style: Style, sink: Sink) -> (impl Subscriber + Send + Sync, Arc<Process>) {
        let process = Arc::new(Process::default());
        let layer = Lines {
            style,
            sink,
            process: Arc::clone(&process),
        };
        (tracing_subscriber::registry().with(layer), process)
    }

    #[test]
    fn fields_of_spans_stand_before_those_of_the_event() {
        let (reader, writer) = io::pipe().unwrap();
        let (subscriber, _) = lines(
            Style::Human { with_colour: false },
            Sink::on(writer.as_fd()).unwrap(),
        );
        tracing::subscriber::with_default(subscriber, || {
            let span =
                tracing::info_span!("request", request_id = "r1", status = tracing::field::Empty);
            span.record("status", 200);
            span.in_scope(|| tracing::warn!(target: "payload::x", took = 1.5, "slow"));
        });
        drop(writer);
        let text = read_all(reader);
        assert!(
            text.ends_with("WARN arbiter: slow request_id=r1 status=200 took=1.5\n"),
            "{text}"
        );
    }

    #[test]
    fn a_pipe_that_nobody_reads_does_not_block_and_every_drop_is_counted() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (subscriber, process) = lines(Style::Json, Sink::on(writer.as_fd()).unwrap());
        const RECORDS: usize = 5000;
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..RECORDS {
                tracing::info!(number, "nobody reads this");
            }
            let dropped = process.drops();
            assert!(dropped > 0);
            // Room for some lines, and now records flow again.
            let mut room = vec![0; 32 * 1024];
            reader.read_exact(&mut room).unwrap();
            tracing::info!("again");
            drop(writer);
        });
        // Only the subscriber's own description keeps the pipe open, and it is gone now.
        let rest = read_all(reader);
        let last: Vec<serde_json::Value> = rest
            .lines()
            .rev()
            .take(2)
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(last[1]["message"], "again");
        assert_eq!(last[0]["message"], DROPPED);
        assert_eq!(last[0]["dropped"], process.drops());
        let seen = rest
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let last_number = seen
            .filter_map(|line| line["number"].as_u64())
            .max()
            .unwrap();
        assert_eq!(
            last_number + 1 + process.drops(),
            RECORDS as u64,
            "written and dropped are all"
        );
    }

    #[test]
    fn the_flags_of_the_shared_description_stay_as_they_are() {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let (_reader, writer) = io::pipe().unwrap();
        assert!(Sink::on(writer.as_fd()).unwrap().write(b"x\n"));
        let flags = OFlag::from_bits_truncate(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
    }

    #[test]
    fn a_socket_that_nobody_reads_does_not_block() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let sink = Sink::on(ours.as_fd()).unwrap();
        let written = (0..1_000_000)
            .take_while(|_| sink.write(&[b'x'; 1000]))
            .count();
        assert!(written > 0 && written < 1_000_000);
        peer.read_exact(&mut vec![0; 64 * 1024]).unwrap();
        assert!(sink.write(b"again\n"));
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_run_into_the_next() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = Sink::on(writer.as_fd()).unwrap();
        assert!(!sink.write(&[b'x'; 1024 * 1024]));
        assert!(!sink.write(b"lost\n"));
        reader.read_exact(&mut [0; 16 * 1024]).unwrap();
        assert!(sink.write(b"next\n"));
        drop((sink, writer));
        assert!(read_all(reader).ends_with("xxx\nnext\n"));
    }

    #[test]
    fn a_file_is_appended_where_the_shell_left_it() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before\n").unwrap();
        assert!(Sink::on(file.as_fd()).unwrap().write(b"after\n"));
        file.rewind().unwrap();
        assert_eq!(read_all(file), "before\nafter\n");
    }

    #[test]
    fn what_cannot_be_opened_once_more_is_asked_first() {
        let (_reader, writer) = io::pipe().unwrap();
        let sink = Sink {
            way: Way::Shared(writer.into()),
            is_torn: AtomicBool::new(false),
        };
        let written = (0..1_000_000)
            .take_while(|_| sink.write(&[b'x'; 1000]))
            .count();
        assert!(written > 0 && written < 1_000_000);
    }
}
