//! tracing-journald knows one path only. So the tests that need the crate run in a child of their own, with
//! a /run that is theirs (unshare(1)) and a mock journald in it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{IoSliceMut, Read, Seek};
use std::os::fd::{FromRawFd, RawFd};
use std::process::Command;

use nix::sys::socket::{ControlMessageOwned, recvmsg};
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::lifecycle;
use crate::logs::events::Event as Lifecycle;

const INSIDE: &str = "PAYLOAD_TEST_INSIDE_ITS_OWN_RUN";

/// Runs one test of this file again, in a child with its own /run. `true`: this is that child.
fn in_its_own_run(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && exec \"$@\"";
    let isolated = |command: &[&str]| {
        let mut child = Command::new("unshare");
        child
            .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
            .args(command);
        child
    };
    if !isolated(&["true"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        eprintln!("SKIPPED {test}: no user and mount namespaces here (unshare, mount)");
        return false;
    }
    let binary = std::env::current_exe().unwrap();
    let name = format!("logs::journal::tests::{test}");
    // One thread: the test runs on the main one, as logs are set up in a real process.
    let output = isolated(&[
        binary.to_str().unwrap(),
        "--exact",
        &name,
        "--test-threads=1",
    ])
    .env(INSIDE, "1")
    .output()
    .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// A journald that reads only when told to.
struct Mock(UnixDatagram);

impl Mock {
    fn at(path: impl AsRef<Path>) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    fn records(&self) -> Vec<HashMap<String, Vec<String>>> {
        std::iter::from_fn(|| self.datagram())
            .filter(|bytes| !bytes.is_empty())
            .map(|bytes| parse(&bytes))
            .collect()
    }

    #[expect(
        unsafe_code,
        reason = "a test takes over the descriptor that the kernel has just made for it"
    )]
    fn datagram(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 512 * 1024];
        let mut control = nix::cmsg_space!(RawFd);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::empty();
        let received =
            recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags).ok()?;
        let length = received.bytes;
        if let Some(ControlMessageOwned::ScmRights(raw)) = received.cmsgs().unwrap().next() {
            // SAFETY: the descriptor has just come with this message and nobody else knows it.
            let mut file = unsafe { File::from_raw_fd(raw[0]) };
            let seals = fcntl(&file, FcntlArg::F_GET_SEALS).unwrap();
            assert_eq!(SealFlag::from_bits_truncate(seals), SealFlag::all());
            let mut record = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut record).unwrap();
            return Some(record);
        }
        bytes.truncate(length);
        Some(bytes)
    }
}

/// systemd's native protocol: `NAME=value\n`, or `NAME\n`, eight bytes of length, the value, `\n`.
fn parse(mut record: &[u8]) -> HashMap<String, Vec<String>> {
    let mut fields: HashMap<String, Vec<String>> = HashMap::new();
    while let Some(end) = record.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8(record[..end].to_vec()).unwrap();
        record = &record[end + 1..];
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let length =
                    usize::try_from(u64::from_le_bytes(record[..8].try_into().unwrap())).unwrap();
                let value = String::from_utf8(record[8..8 + length].to_vec()).unwrap();
                assert_eq!(record[8 + length], b'\n');
                record = &record[9 + length..];
                (line, value)
            }
        };
        fields.entry(name).or_default().push(value);
    }
    assert!(record.is_empty());
    fields
}

fn with_journal(mock: &Mock, test: impl FnOnce(&Arc<Wire>, &Arc<Process>)) {
    let process = Arc::new(Process::default());
    let layer = JournalLayer::open("payload", Arc::clone(&process)).unwrap();
    assert_eq!(mock.records(), []);
    let wire = layer.wire();
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || test(&wire, &process));
}

const WORKER: ProcessIdentity = ProcessIdentity::Worker {
    worker: 7,
    slot: 1,
    generation: 2,
};

#[test]
fn a_record_has_the_names_and_priorities_of_the_journal() {
    if !in_its_own_run("a_record_has_the_names_and_priorities_of_the_journal") {
        return;
    }
    let mock = Mock::at(SOCKET);
    with_journal(&mock, |_, process| {
        tracing::info!(answer = 42, "hello");
        lifecycle!(
            Lifecycle::WorkerForked,
            payload_worker = 7u64,
            payload_slot = 1u32,
            payload_generation = 2u32,
            "worker forked"
        );
        process.become_process(WORKER);
        tracing::error!("broken\nin two lines");
        tracing::debug!("detail");
        let records = mock.records();
        let field =
            |index: usize, name: &str| records[index].get(name).map(|values| values[0].as_str());
        assert_eq!(field(0, "PRIORITY"), Some("6"));
        assert_eq!(field(0, "SYSLOG_IDENTIFIER"), Some("payload"));
        assert_eq!(field(0, "MESSAGE"), Some("hello answer=42"));
        assert_eq!(field(0, "ANSWER"), Some("42"));
        assert_eq!(field(0, "PAYLOAD_WORKER"), None, "the arbiter is no worker");
        assert_eq!(field(1, "PAYLOAD_EVENT"), Some("worker-forked"));
        assert_eq!(
            field(1, "MESSAGE_ID"),
            Some(Lifecycle::WorkerForked.message_id())
        );
        assert_eq!(field(1, "PAYLOAD_WORKER"), Some("7"));
        assert_eq!(field(2, "PRIORITY"), Some("3"));
        assert_eq!(
            field(2, "MESSAGE"),
            Some("broken\nin two lines worker=7 slot=1")
        );
        assert_eq!(field(2, "PAYLOAD_WORKER"), Some("7"));
        assert_eq!(field(2, "PAYLOAD_SLOT"), Some("1"));
        assert_eq!(field(2, "PAYLOAD_GENERATION"), Some("2"));
        assert_eq!(field(3, "PRIORITY"), Some("7"));
        assert_eq!(records.len(), 4);
        assert_eq!(process.drops(), 0);
    });
}

#[test]
fn a_large_record_arrives_whole() {
    if !in_its_own_run("a_large_record_arrives_whole") {
        return;
    }
    let mock = Mock::at(SOCKET);
    with_journal(&mock, |_, process| {
        process.become_process(WORKER);
        // Into a memfd for the pair already; then for journald's socket, too, whatever the buffers are.
        for size in [10_000, 20_000, 100_000, 20_000_000] {
            tracing::info!("{}", "x".repeat(size));
            let records = mock.records();
            let whole = format!("{} worker=7 slot=1", "x".repeat(size));
            assert!(records[0]["MESSAGE"] == [whole], "{size}");
            assert_eq!(records[0]["PAYLOAD_WORKER"], ["7"]);
        }
        assert_eq!(process.drops(), 0);
    });
}

#[test]
fn a_journald_that_does_not_read_blocks_nobody_and_every_drop_is_counted() {
    if !in_its_own_run("a_journald_that_does_not_read_blocks_nobody_and_every_drop_is_counted") {
        return;
    }
    let mock = Mock::at(SOCKET);
    with_journal(&mock, |_, process| {
        const RECORDS: u64 = 20_000;
        for number in 0..RECORDS {
            tracing::info!(number, "nobody reads this");
        }
        let seen = mock.records().len() as u64;
        assert!(seen > 0 && seen < RECORDS, "{seen}");
        assert_eq!(seen + process.drops(), RECORDS);

        tracing::info!("again");
        tracing::info!("and again");
        let records = mock.records();
        let messages: Vec<&str> = records
            .iter()
            .map(|record| record["MESSAGE"][0].as_str())
            .collect();
        let lost = format!("{DROPPED} dropped={}", process.drops());
        assert_eq!(messages, ["again", &lost, "and again"]);
        assert_eq!(records[1]["DROPPED"], [process.drops().to_string()]);
        assert_eq!(records[1]["PRIORITY"], ["4"]);
        assert_eq!(records[1]["SYSLOG_IDENTIFIER"], ["payload"]);
    });
}

#[test]
fn threads_that_log_at_the_same_time_lose_nothing() {
    if !in_its_own_run("threads_that_log_at_the_same_time_lose_nothing") {
        return;
    }
    let mock = Mock::at(SOCKET);
    with_journal(&mock, |wire, process| {
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        const EACH: usize = 2000;
        let counted = || {
            let of_threads = |record: &HashMap<String, Vec<String>>| {
                record["MESSAGE"][0].starts_with("at the same time")
            };
            mock.records()
                .iter()
                .filter(|record| of_threads(record))
                .count()
        };
        let mut seen = 0;
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        // Every third is too large for the pair and travels in a memfd.
                        let texts = ["y".repeat(3000), "y".repeat(10), "y".repeat(30_000)];
                        tracing::dispatcher::with_default(&dispatch, || {
                            for text in texts.iter().cycle().take(EACH) {
                                tracing::info!(text, "at the same time");
                            }
                        });
                    })
                })
                .collect();
            while writers.iter().any(|writer| !writer.is_finished()) {
                seen += counted();
                std::thread::yield_now();
            }
        });
        seen += counted();
        assert_eq!(seen + usize::try_from(process.drops()).unwrap(), 4 * EACH);
        assert_eq!(
            records::take(&wire.tap).unwrap(),
            None,
            "nothing stays behind in the pair"
        );
    });
}

#[test]
fn a_forked_worker_gets_descriptors_of_its_own_at_the_same_numbers() {
    if !in_its_own_run("a_forked_worker_gets_descriptors_of_its_own_at_the_same_numbers") {
        return;
    }
    let mock = Mock::at(SOCKET);
    with_journal(&mock, |wire, process| {
        let inode = |fd: &OwnedFd| nix::sys::stat::fstat(fd).unwrap().st_ino;
        let (before, number) = (inode(&wire.tap), wire.tap.as_raw_fd());
        wire.renew().unwrap();
        process.become_process(WORKER);
        assert_ne!(inode(&wire.tap), before);
        assert_eq!(wire.tap.as_raw_fd(), number);
        tracing::info!("from the worker");
        let records = mock.records();
        assert_eq!(records[0]["MESSAGE"], ["from the worker worker=7 slot=1"]);
        assert_eq!(records[0]["PAYLOAD_WORKER"], ["7"]);
    });
}

#[test]
fn a_journald_that_is_not_there_is_an_error() {
    if !in_its_own_run("a_journald_that_is_not_there_is_an_error") {
        return;
    }
    assert!(JournalLayer::open("payload", Arc::default()).is_err());
}

#[test]
fn a_journald_that_is_stopped_from_the_start_is_an_error_and_no_wait() {
    if !in_its_own_run("a_journald_that_is_stopped_from_the_start_is_an_error_and_no_wait") {
        return;
    }
    let _mock = Mock::at(SOCKET);
    let outlet = Outlet::to(Path::new(SOCKET)).unwrap();
    while outlet.send(b"X=1\n").is_ok() {}
    assert!(JournalLayer::open("payload", Arc::default()).is_err());
}

#[test]
fn what_journald_does_not_take_is_an_error_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let mock = Mock::at(&path);
    let outlet = Outlet::to(&path).unwrap();
    let sent = (0..100_000)
        .take_while(|_| outlet.send(b"X=1\n").is_ok())
        .count();
    assert!(sent > 0 && sent < 100_000);
    assert_eq!(mock.records().len(), sent);
    outlet
        .send(&[b"BIG=", vec![b'x'; 30_000_000].as_slice(), b"\n"].concat())
        .unwrap();
    assert_eq!(mock.records()[0]["BIG"][0].len(), 30_000_000);
    std::fs::remove_file(&path).unwrap();
    assert!(outlet.send(b"X=1\n").is_err());
}
