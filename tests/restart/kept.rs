//! What payloads have kept outlives a restart, and nothing else that ends the service. The probe keeps every count
//! before it writes it; what the next life finds that is not the last one fails in `Ledger::stints`.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;

use crate::judge::Stint;
use crate::ledger::Book;
use crate::manager::Manager;
use crate::support::service::{Service, Setup};

const SETTINGS: &str =
    "[reload]\ntrial = '0s'\n[restart]\nbackoff_initial = '20ms'\nbackoff_max = '100ms'";

impl Book {
    fn serving(&self, workers: u16, scope: &str) -> Setup {
        self.setup(&format!("workers = {workers}\n{SETTINGS}"), scope)
    }

    /// The same with the probe's `startup`.
    fn starting(&self, how: &str) -> Setup {
        self.serving(2, "service")
            .with_app(&format!("startup = '{how}'"))
    }

    /// Waits until this many have written something.
    #[track_caller]
    fn wait_for(&self, count: usize) -> Vec<Stint> {
        self.ledger
            .wait_until(&format!("{count} writers that write"), |stints| {
                stints.len() >= count
                    && stints[count - 1..]
                        .iter()
                        .all(|stint| stint.to > stint.from)
            })
    }

    /// Who began without what the one before has kept.
    fn bare(&self) -> Vec<usize> {
        let stints = self.ledger.stints();
        let stints = stints.iter().enumerate();
        stints
            .filter(|(_, stint)| stint.bare)
            .map(|(index, _)| index)
            .collect()
    }

    #[track_caller]
    fn all_went_on(&self) {
        assert!(self.bare().is_empty(), "{:?}", self.bare());
    }
}

#[track_caller]
fn assert_told(service: &Service, kept: u32, lost: u32) {
    let told = service.event("payloads-kept");
    assert_eq!((told.number("kept"), told.number("lost")), (kept, lost));
}

#[test]
fn it_goes_on_in_the_next_life() {
    for manager in [Manager::new(100), Manager::silent(100)] {
        let book = Book::new();
        for life in 1..=4 {
            let service = manager.serve(book.serving(2, "service"));
            book.wait_for(life);
            manager.emptied();
            manager.end(&service);
            assert_eq!(manager.stored_kept(), 1);
            assert_eq!(manager.stored(), (0, 0, 1));
            assert_told(&service, 1, 0);
        }
        book.all_went_on();
        assert!(book.ledger.stints().iter().all(|stint| stint.ended));
    }
}

#[test]
fn each_slot_has_its_own_beside_connections() {
    let manager = Manager::new(100);
    let book = Book::new();
    let first = manager.serve(book.serving(3, "slot"));
    let mut client = manager.client();
    client.get("/").unwrap();
    book.wait_for(3);
    manager.end(&first);
    assert_eq!((manager.stored(), manager.stored_kept()), ((1, 1, 3), 3));
    let second = manager.serve(book.serving(3, "slot"));
    client.get("/").unwrap();
    let stints = book.wait_for(6);
    book.all_went_on();
    assert!(stints[..3].iter().all(|stint| stint.ended));
    manager.emptied();
    // A slot that is not there any more leaves nothing, and takes no place the next time.
    manager.end(&second);
    let third = manager.serve(book.serving(2, "slot"));
    book.wait_for(8);
    manager.end(&third);
    assert_eq!(manager.stored_kept(), 2);
    book.all_went_on();
}

#[test]
fn it_waits_for_a_start_that_succeeds() {
    let manager = Manager::new(100);
    let book = Book::new();
    let first = manager.serve(book.serving(2, "service"));
    book.wait_for(1);
    manager.end(&first);
    for _ in 0..2 {
        let fails = book.starting("fail");
        assert_eq!(manager.start(fails).start().exit(), 70);
        assert_eq!(manager.stored_kept(), 1);
    }
    let hangs = book.starting("hang");
    let hangs = manager.start(hangs).start();
    hangs.record("a start", |record| record["phase"] == "starting");
    manager.end(&hangs);
    assert_eq!(manager.stored_kept(), 1);
    let _last = manager.serve(book.serving(2, "service"));
    book.wait_for(2);
    book.all_went_on();
    manager.emptied();
}

#[test]
fn a_reload_and_a_kill_in_between_change_nothing() {
    let manager = Manager::new(100);
    let book = Book::new();
    let first = manager.serve(book.serving(2, "service"));
    book.wait_for(1);
    assert_eq!(first.reload().status.code(), Some(0));
    book.wait_for(2);
    manager.end(&first);
    let second = manager.serve(book.serving(2, "service"));
    let stints = book.wait_for(3);
    crate::support::service::signal_to(stints[2].pid, Signal::SIGKILL);
    book.wait_for(4);
    // At once after the image has changed.
    assert_eq!(second.reload().status.code(), Some(0));
    manager.end(&second);
    let count = book.ledger.stints().len();
    let _third = manager.serve(book.serving(2, "service"));
    book.wait_for(count + 1);
    book.all_went_on();
}

#[test]
fn a_stop_and_the_death_of_the_arbiter_leave_nothing() {
    let manager = Manager::new(100);
    let book = Book::new();
    let first = manager.serve(book.serving(2, "service"));
    book.wait_for(1);
    assert_eq!(first.stop(), 0);
    assert_eq!(manager.stored(), (0, 0, 0));
    first.never("payloads-kept");
    let second = manager.serve(book.serving(2, "service"));
    book.wait_for(2);
    assert_eq!(book.bare(), [1]);
    second.signal(Signal::SIGKILL);
    second.gone();
    manager.catch_up();
    assert_eq!(manager.stored(), (0, 0, 0));
    let _third = manager.serve(book.serving(2, "service"));
    book.wait_for(3);
    assert_eq!(book.bare(), [1, 2]);
}

#[test]
fn what_the_store_has_no_room_for_is_lost_and_told() {
    for (manager, kept, lost) in [
        (Manager::new(0), 0, 3),
        (Manager::silent(0), 0, 3),
        (Manager::new(3), 2, 1),
        (Manager::silent(3), 2, 1),
        (Manager::new(4), 3, 0),
    ] {
        let book = Book::new();
        let first = manager.serve(book.serving(3, "slot"));
        book.wait_for(3);
        manager.end(&first);
        assert_eq!(manager.stored_kept(), kept);
        assert_told(&first, u32::try_from(kept).unwrap(), lost);
        let _second = manager.serve(book.serving(3, "slot"));
        book.wait_for(6);
        assert_eq!(book.bare().len(), 3 - kept);
    }
}

#[test]
fn connections_do_not_take_its_place() {
    let manager = Manager::new(6);
    let book = Book::new();
    let first = manager.serve(book.serving(2, "service"));
    book.wait_for(1);
    let mut clients: Vec<_> = (0..20).map(|_| manager.client()).collect();
    for client in &mut clients {
        client.get("/").unwrap();
    }
    manager.end(&first);
    assert_eq!((manager.stored(), manager.stored_kept()), ((3, 1, 1), 1));
}

#[test]
fn without_a_manager_it_is_lost_and_told() {
    let book = Book::new();
    let service = book.serving(1, "service").serve();
    book.wait_for(1);
    service.signal(Signal::SIGUSR2);
    assert_eq!(service.exit(), 0);
    assert_told(&service, 0, 1);
}

#[test]
fn a_file_that_cannot_be_read_is_passed_over() {
    let file = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        OwnedFd::from(file)
    };
    let manager = Manager::new(100);
    manager.put("payload-kept-1", file(b"nonsense\n"));
    manager.put(
        "payload-kept-9",
        OwnedFd::from(File::open("/dev/null").unwrap()),
    );
    let book = Book::new();
    let service = manager.serve(book.serving(2, "service"));
    service.message("what a payload has kept in the file descriptor store cannot be read");
    book.wait_for(1);
    manager.emptied();
    assert_eq!(service.stop(), 0);
}

/// An older program clears away what a newer one has put there.
#[test]
fn what_another_version_has_left_is_taken_out() {
    let manager = Manager::new(100);
    manager.put("payload-future-3", std::io::pipe().unwrap().0.into());
    let book = Book::new();
    let service = manager.serve(book.serving(2, "service"));
    let told = service.message("another version of this program");
    assert_eq!(told.text("name"), "payload-future-3");
    manager.emptied();
    assert_eq!(service.stop(), 0);
}
