use super::fake::Manager;
use super::*;

fn pipes(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| exec::pipe().unwrap().0).collect()
}

fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

#[test]
fn names_are_read_as_they_are_written() {
    let newer = Name::Other("payload-x-y-3".into(), 3);
    let names = [Name::Ledger(3), Name::Connections(17), Name::Kept(1)];
    for name in names.into_iter().chain([Name::Check, newer]) {
        assert_eq!(Name::parse(&name.to_string()), Some(name));
    }
    for other in [
        "http",
        "payload",
        "payload-",
        "payload-ledger-",
        "payload-3",
        "payload--3",
        "payload-x",
        "stored",
    ] {
        assert_eq!(Name::parse(other), None, "{other}");
    }
}

#[test]
fn all_names_fit_into_one_variable() {
    let one = Name::Connections(u32::from(u16::MAX)).to_string();
    assert!((one.len() + 1) * MOST + "LISTEN_FDNAMES=".len() < 128 * 1024);
}

#[test]
fn what_the_manager_takes_is_known_to_be_stored_when_it_has_worked() {
    let (mut manager, line) = Manager::new(8);
    let fds = pipes(3);
    let mut transfer = Transfer::new(Name::Connections(1)).unwrap();
    assert!(transfer.send(&line, &borrowed(&fds)).unwrap());
    assert!(!transfer.is_processed());
    let heard = manager.work();
    assert_eq!(
        heard,
        [
            "FDSTOREREMOVE=1\nFDNAME=payload-check",
            "FDSTORE=1\nFDNAME=payload-connections-1\nFDPOLL=0",
            "FDSTORE=1\nFDNAME=payload-check",
            "BARRIER=1",
        ]
    );
    assert!(transfer.is_processed() && transfer.is_stored());
    let mut expected = vec!["payload-connections-1"; 3];
    expected.push("payload-check");
    assert_eq!(manager.names(), expected);
}

#[test]
fn a_store_that_is_too_small_by_one_is_noticed() {
    let fds = pipes(3);
    for (most, enough) in [(0, false), (3, false), (4, true)] {
        let (mut manager, line) = Manager::new(most);
        let mut transfer = Transfer::new(Name::Connections(1)).unwrap();
        assert!(transfer.send(&line, &borrowed(&fds)).unwrap());
        manager.work();
        assert!(transfer.is_processed());
        assert_eq!(transfer.is_stored(), enough, "{most}");
    }
}

#[test]
fn the_check_of_the_transfer_before_takes_no_room() {
    let (mut manager, line) = Manager::new(4);
    for number in 0..3 {
        let mut transfer = Transfer::new(Name::Connections(number)).unwrap();
        assert!(transfer.send(&line, &borrowed(&pipes(1))).unwrap());
        manager.work();
        assert!(transfer.is_stored());
    }
    assert_eq!(manager.stored.len(), 4);
}

#[test]
fn a_manager_that_does_not_read_gets_the_rest_later_and_nothing_twice() {
    let (mut manager, line) = Manager::new(100);
    let mut filled = 0;
    while line.send("FILLED=1", &[]).unwrap() {
        filled += 1;
    }
    let fds = pipes(2);
    let mut transfer = Transfer::new(Name::Connections(1)).unwrap();
    assert!(!transfer.send(&line, &borrowed(&fds)).unwrap());
    let mut heard = Vec::new();
    for _ in 0..1_000 {
        heard.extend(manager.one());
        if transfer.send(&line, &borrowed(&fds)).unwrap() {
            break;
        }
    }
    heard.extend(manager.work());
    assert_eq!(heard.len(), filled + 4);
    assert!(transfer.is_processed() && transfer.is_stored());
    assert_eq!(manager.stored.len(), 3);
}

#[test]
fn a_barrier_waits_for_the_manager_and_not_for_ever() {
    let (mut manager, line) = Manager::new(1);
    let mut barrier = Barrier::new().unwrap();
    assert!(barrier.send(&line).unwrap());
    barrier.wait(Duration::from_millis(1));
    assert!(!has_ended(&barrier.ours));
    std::thread::scope(|scope| {
        scope.spawn(|| manager.work());
        barrier.wait(Duration::from_secs(30));
    });
    assert!(has_ended(&barrier.ours));
}

#[test]
fn a_manager_that_is_gone_is_an_error() {
    let (manager, line) = Manager::new(1);
    drop(manager);
    assert!(line.remove(&Name::Check).is_err());
}
