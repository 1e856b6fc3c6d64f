//! What judges the writers, shown what is wrong.

use std::time::Duration;

use crate::judge::{Silence, read, silences};

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// `word pid slot slots epoch count milliseconds`
fn forged(lines: &[&str]) -> String {
    let line = |line: &&str| format!("{line}000000\n");
    lines.iter().map(line).collect()
}

#[track_caller]
fn refused(lines: &[&str], by_slot: bool, why: &str) {
    let outcome = read(&forged(lines), by_slot);
    let error = outcome.expect_err("it is wrong");
    assert!(error.contains(why), "{error}");
}

#[test]
fn two_writers_are_found() {
    let good = [
        "begin 7 0 2 1 1 10",
        "tick 7 0 2 1 2 20",
        "begin 8 1 2 2 3 30",
    ];
    assert_eq!(read(&forged(&good), false).unwrap().len(), 2);
    let back = [good[0], good[1], "begin 8 1 2 2 3 15"];
    refused(&back, false, "two at the same time");
    // Nobody else has counted on, and the first one writes again.
    let both = [good[0], good[1], good[2], "tick 7 0 2 1 4 40"];
    refused(&both, false, "two at the same time");
    refused(&[good[0], "begin 8 1 2 2 1 30"], false, "two count");
    refused(&[good[0], "clash 8 1 2 2 2 30"], false, "two hold the lock");
    refused(
        &[good[0], "begin 8 1 2 1 2 30"],
        false,
        "epochs do not rise",
    );
    refused(&[good[0], "tick 8 1 2 1 2 30"], false, "it never began");
    let after = [good[0], "end 7 0 2 1 2 20", "tick 7 0 2 1 3 30"];
    refused(&after, false, "it had ended");
    refused(&[good[0], "lost 8 1 2 2 2 30"], false, "kept last");
    refused(&[good[0], "tick 7 0 2 1 2"], false, "no line");
}

#[test]
fn two_of_a_slot_are_found_and_those_who_share_by_other_numbers() {
    let good = [
        "begin 7 0 2 1 1 10",
        "begin 8 1 2 2 1 11",
        "tick 7 0 2 1 2 20",
    ];
    assert_eq!(read(&forged(&good), true).unwrap().len(), 2);
    let same = [good[0], good[1], good[2], "begin 9 0 2 3 3 15"];
    refused(&same, true, "two at the same time");
    let other = [good[0], good[1], good[2], "begin 9 2 3 3 1 15"];
    refused(&other, true, "two at the same time");
}

#[test]
fn silence_is_found_before_the_first_between_two_within_one_and_after_the_last() {
    let lines = [
        "begin 7 0 1 1 1 30",
        "tick 7 0 1 1 2 32",
        "tick 7 0 1 1 3 52",
        "begin 8 0 1 2 4 92",
        "tick 8 0 1 2 5 95",
    ];
    let stints = read(&forged(&lines), false).unwrap();
    let spans = |from: u64, to: u64| {
        let all = silences(&stints, false, millis(from), millis(to));
        let next = |one: &Silence| one.next.as_ref().map(|next| next.epoch);
        let spans = all.iter().map(|one| (one.span().as_millis(), next(one)));
        spans.collect::<Vec<_>>()
    };
    let all = [
        (20, Some(1)),
        (20, None),
        (40, Some(2)),
        (3, None),
        (55, None),
    ];
    assert_eq!(spans(10, 150), all);
    assert_eq!(spans(200, 300), [(100, None)], "nobody wrote at all");
    assert_eq!(spans(40, 60), [(12, None), (8, None)], "of a part");
}

#[test]
fn silence_is_found_in_each_share_as_long_as_there_is_one() {
    let lines = [
        "begin 7 0 2 1 1 10",
        "begin 8 1 2 2 1 10",
        "tick 7 0 2 1 2 50",
        // The second share is gone.
        "begin 7 0 1 3 3 60",
        "tick 7 0 1 3 4 99",
        // And here again, and nobody has it.
        "begin 9 0 2 4 5 100",
        "tick 9 0 2 4 6 130",
    ];
    let stints = read(&forged(&lines), true).unwrap();
    let all = silences(&stints, true, millis(10), millis(130));
    let of = |from: u64, to: u64| {
        let is_it = |one: &Silence| (one.from, one.to) == (millis(from), millis(to));
        all.iter().any(is_it)
    };
    assert!(of(50, 60) && of(99, 100), "the first one changes: {all:?}");
    assert!(of(10, 60), "the second one stops to be written: {all:?}");
    assert!(of(100, 130), "it is not written any more: {all:?}");
    assert!(
        !all.iter()
            .any(|one| one.from == millis(60) && one.to > millis(99))
    );
}
