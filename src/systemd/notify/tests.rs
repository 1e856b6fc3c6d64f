//! A mock service manager that says what it heard, datagram by datagram.

use super::*;
use std::path::PathBuf;

struct Mock {
    directory: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Mock {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { directory, socket }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    fn notifier(&self) -> Notifier {
        notifier_to(self.path().as_os_str().to_owned())
    }

    /// All that has arrived; local datagrams are there when the send has returned.
    fn heard(&self) -> Vec<String> {
        heard(&self.socket)
    }

    /// Fills the receiver's queue by other hands.
    fn fill(&self) -> usize {
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        let full = (0..)
            .take_while(|_| other.send_to(b"X=1", self.path()).is_ok())
            .count();
        assert!(full > 0);
        full
    }
}

fn notifier_to(to: impl Into<OsString>) -> Notifier {
    let settings = Settings {
        notify_socket: Some(to.into()),
        ..Settings::default()
    };
    let (notifier, notes) = Notifier::new(&settings, 1);
    assert_eq!(notes, [""; 0]);
    notifier
}

fn heard(socket: &UnixDatagram) -> Vec<String> {
    let mut messages = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(length) = socket.recv(&mut buffer) {
        messages.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    messages
}

#[test]
fn each_message_is_one_exact_datagram() {
    let mock = Mock::new();
    let mut notifier = mock.notifier();
    notifier.status("booting");
    notifier.send(&[Say::Ready, Say::Status("2/2 workers serving")]);
    notifier.send(&[Say::Reloading(123_456_789_012)]);
    notifier.send(&[Say::Ready]);
    notifier.watchdog();
    notifier.extend_timeout(Duration::from_secs(7200));
    notifier.send(&[Say::Stopping]);
    assert_eq!(
        mock.heard(),
        [
            "STATUS=booting",
            "READY=1\nSTATUS=2/2 workers serving",
            "RELOADING=1\nMONOTONIC_USEC=123456789012",
            "READY=1",
            "WATCHDOG=1",
            "EXTEND_TIMEOUT_USEC=7200000000",
            "STOPPING=1",
        ]
    );
}

#[test]
fn an_abstract_socket_is_reached() {
    let name = format!("payload-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_nonblocking(true).unwrap();
    notifier_to(format!("@{name}")).send(&[Say::Ready]);
    assert_eq!(heard(&socket), ["READY=1"]);
}

#[test]
fn a_status_is_one_line_and_injects_nothing() {
    let mock = Mock::new();
    mock.notifier().status("a\nREADY=1\r\tb\u{7f}\u{85}c");
    assert_eq!(mock.heard(), ["STATUS=a READY=1  b  c"]);
}

#[test]
fn a_long_status_is_cut_at_a_character_to_4096_bytes_in_all() {
    let mock = Mock::new();
    let mut notifier = mock.notifier();
    notifier.status(&"é".repeat(4000));
    notifier.send(&[Say::Ready, Say::Status(&"x".repeat(5000))]);
    let heard = mock.heard();
    assert_eq!(
        heard[0].len(),
        7 + 2 * 2044,
        "an é has two bytes, and no half of one is sent"
    );
    assert_eq!(heard[1].len(), 4096);
    assert!(heard[1].starts_with("READY=1\nSTATUS=xxx"));
}

#[test]
fn a_manager_that_does_not_read_gets_the_newest_state_later() {
    let mock = Mock::new();
    let mut notifier = mock.notifier();
    let full = mock.fill();
    notifier.send(&[Say::Ready, Say::Status("first")]);
    for count in 0..10_000 {
        notifier.status(&format!("status {count}"));
        notifier.watchdog();
    }
    assert!(notifier.has_pending());
    assert_eq!(mock.heard().len(), full);
    notifier.flush();
    assert_eq!(mock.heard(), ["READY=1\nSTATUS=status 9999"]);
    assert!(!notifier.has_pending());
}

#[test]
fn the_order_of_states_survives_a_full_queue() {
    let mock = Mock::new();
    let mut notifier = mock.notifier();
    mock.fill();
    notifier.send(&[Say::Ready]);
    for round in 0..5 {
        notifier.send(&[Say::Reloading(round)]);
        notifier.send(&[Say::Ready]);
    }
    notifier.status("bye");
    notifier.send(&[Say::Stopping]);
    notifier.send(&[Say::Ready]);
    mock.heard();
    // The next call of any kind brings what waited, then itself.
    notifier.watchdog();
    assert_eq!(
        mock.heard(),
        [
            "READY=1",
            "RELOADING=1\nMONOTONIC_USEC=4",
            "READY=1",
            "STOPPING=1\nSTATUS=bye",
            "WATCHDOG=1",
        ]
    );
}

#[test]
fn a_manager_that_made_its_socket_anew_hears_the_state() {
    let mut mock = Mock::new();
    let mut notifier = mock.notifier();
    std::fs::remove_file(mock.path()).unwrap();
    notifier.send(&[Say::Ready]);
    mock.socket = UnixDatagram::bind(mock.path()).unwrap();
    mock.socket.set_nonblocking(true).unwrap();
    notifier.flush();
    assert_eq!(mock.heard(), ["READY=1"]);
}

#[test]
fn without_a_manager_nothing_waits() {
    let (mut notifier, notes) = Notifier::new(&Settings::default(), 1);
    notifier.send(&[Say::Ready]);
    notifier.status("nobody hears it");
    assert!(!notifier.has_pending());
    assert_eq!(notes, [""; 0]);
}

#[test]
fn an_address_that_cannot_be_used_is_a_note() {
    for (to, why) in [
        ("vsock:2:9999", "vsock is not supported"),
        ("relative/path", "neither an absolute path"),
        ("@", "neither an absolute path"),
        ("", "neither an absolute path"),
    ] {
        let settings = Settings {
            notify_socket: Some(to.into()),
            ..Settings::default()
        };
        let (_, notes) = Notifier::new(&settings, 1);
        assert!(notes[0].contains(why), "{notes:?}");
    }
}

#[test]
fn the_watchdog_is_fed_at_half_its_time_if_it_is_ours() {
    let interval = |usec: Option<&str>, pid: Option<&str>| {
        let settings = Settings {
            notify_socket: None,
            watchdog_usec: usec.map(Into::into),
            watchdog_pid: pid.map(Into::into),
            fd_store: None,
        };
        let (notifier, notes) = Notifier::new(&settings, 77);
        (notifier.watchdog_interval(), notes.len())
    };
    let ten = Some(Duration::from_secs(10));
    assert_eq!(interval(Some("20000000"), None), (ten, 0));
    assert_eq!(interval(Some("20000000"), Some("77")), (ten, 0));
    assert_eq!(interval(Some("20000000"), Some("78")), (None, 0));
    assert_eq!(interval(Some("0"), None), (None, 0));
    assert_eq!(interval(None, Some("77")), (None, 0));
    assert_eq!(interval(Some("soon"), None), (None, 1));
    assert_eq!(interval(Some("20000000"), Some("me")), (None, 1));
}
