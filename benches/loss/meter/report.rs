//! What a run has shown: as numbers, as a table, and as what a test expects.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::histogram::{Histogram, Latency};
use super::tally::{Counts, Failure, Group, Snapshot};

/// Failures that the table and a failed test tell.
const SHOWN: usize = 20;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// With which the same clients do the same again, as far as the server lets them.
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) windows: usize,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) total: Kind,
    pub(crate) failures: Vec<Failure>,
    /// Failures that are in the counts only.
    pub(crate) untold: u64,
    /// What the meter itself could not do; then the counts are worth nothing.
    pub(crate) unable: Option<String>,
}

/// The clients of one kind.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Kind {
    pub(crate) kind: String,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Of the right answers that have no moment in common with a window, in milliseconds.
    pub(crate) outside: Latency,
    /// Of the others.
    pub(crate) inside: Latency,
}

impl Report {
    pub(super) fn new(seed: u64, lasted: Duration, windows: usize, seen: Snapshot) -> Self {
        let mut total = Group {
            kind: "all".to_owned(),
            ..Group::default()
        };
        for group in &seen.groups {
            total.counts.add(&group.counts);
            total.inside.merge(&group.inside);
            total.outside.merge(&group.outside);
        }
        Self {
            seed,
            seconds: lasted.as_secs_f64(),
            windows,
            kinds: seen.groups.iter().map(Kind::new).collect(),
            total: Kind::new(&total),
            failures: seen.failures,
            untold: seen.untold,
            unable: seen.unable,
        }
    }

    /// The clients of this kind, all groups of them together. Panics: there are none.
    #[track_caller]
    pub(crate) fn of(&self, kind: &str) -> Counts {
        let mut counts = Counts::default();
        let mut found = false;
        for group in self.kinds.iter().filter(|group| group.kind == kind) {
            counts.add(&group.counts);
            found = true;
        }
        assert!(found, "no client is {kind:?}");
        counts
    }

    /// What must always hold of the counts themselves, however bad the server is.
    ///
    /// # Errors
    /// What does not hold.
    pub(crate) fn consistent(&self) -> Result<(), String> {
        if let Some(unable) = &self.unable {
            return Err(format!("the meter itself was not able to: {unable}"));
        }
        for Kind { kind, counts, .. } in &self.kinds {
            let ended = counts.answered + counts.wrong + counts.lost + counts.retryable;
            if counts.sent != ended {
                let sent = counts.sent;
                return Err(format!(
                    "{kind}: {sent} requests sent, {ended} accounted for"
                ));
            }
            if counts.lost != counts.lost_by.values().sum::<u64>() {
                return Err(format!("{kind}: losses and their causes differ"));
            }
        }
        Ok(())
    }

    /// No request lost or answered wrongly, no connection refused, none closed without a word: what every client
    /// may expect of a server that is replaced, whatever it speaks.
    ///
    /// # Errors
    /// What is not so, and the first failures.
    pub(crate) fn nothing_lost(&self) -> Result<(), String> {
        self.consistent()?;
        let Counts {
            answered,
            wrong,
            lost,
            unasked,
            refused,
            unannounced,
            given_up,
            ..
        } = self.total.counts;
        let bad = wrong + lost + unasked + refused + unannounced + given_up;
        if bad == 0 && answered > 0 {
            return Ok(());
        }
        Err(format!(
            "{answered} answered, {lost} lost, {wrong} wrong, {unasked} unasked, {refused} refused, \
             {unannounced} closed without a word, {given_up} given up\n{}",
            self.told()
        ))
    }

    /// And every client that keeps its connection has kept its first one; `but`: except those of these kinds,
    /// such as HTTP/2, which a server can only ask to come again.
    ///
    /// # Errors
    /// Which kinds have lost connections.
    pub(crate) fn nothing_closed(&self, but: &[&str]) -> Result<(), String> {
        self.nothing_lost()?;
        for Kind { kind, counts, .. } in &self.kinds {
            if counts.lived != counts.keeping && !but.contains(&kind.as_str()) {
                return Err(format!(
                    "{kind}: of {} connections that were open at the start {} are open at the end; \
                     {} were closed with an announcement",
                    counts.keeping, counts.lived, counts.announced
                ));
            }
        }
        Ok(())
    }

    /// [`Report::nothing_lost`], for a test.
    #[track_caller]
    pub(crate) fn assert_nothing_lost(&self) {
        self.expect(self.nothing_lost());
    }

    /// [`Report::nothing_closed`], for a test.
    #[track_caller]
    pub(crate) fn assert_nothing_closed(&self, but: &[&str]) {
        self.expect(self.nothing_closed(but));
    }

    #[track_caller]
    fn expect(&self, holds: Result<(), String>) {
        if let Err(why) = holds {
            panic!("{why}\n{self}");
        }
    }

    /// The first failures, one a line.
    fn told(&self) -> String {
        let mut text = String::new();
        for failure in self.failures.iter().take(SHOWN) {
            text.push_str(&format!("  {failure}\n"));
        }
        let rest = self.failures.len().saturating_sub(SHOWN) as u64 + self.untold;
        if rest > 0 {
            text.push_str(&format!("  and {rest} more\n"));
        }
        text
    }
}

impl Kind {
    fn new(group: &Group) -> Self {
        let of = |histogram: &Histogram| histogram.latency();
        Self {
            kind: group.kind.clone(),
            counts: group.counts.clone(),
            outside: of(&group.outside),
            inside: of(&group.inside),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.1} s, {} windows, seed {}\n",
            self.seconds, self.windows, self.seed
        )?;
        self.table(f, &COLUMNS, |kind, column| column(&kind.counts).to_string())?;
        writeln!(f, "\nlatency in ms, outside | inside of the windows")?;
        self.table(f, &LATENCIES, |kind, (outside, which)| {
            let latency = if *outside { kind.outside } else { kind.inside };
            match which {
                0 => latency.count.to_string(),
                _ if latency.count == 0 => "-".to_owned(),
                1 => format!("{:.2}", latency.p50),
                2 => format!("{:.2}", latency.p99),
                _ => format!("{:.1}", latency.max),
            }
        })?;
        if !self.total.counts.lost_by.is_empty() {
            writeln!(f, "\nlost:")?;
            for (loss, count) in &self.total.counts.lost_by {
                writeln!(f, "  {count:>8} {loss}")?;
            }
        }
        if !self.failures.is_empty() {
            writeln!(f, "\nthe first that went wrong:\n{}", self.told())?;
        }
        match self.consistent() {
            Ok(()) => Ok(()),
            Err(why) => writeln!(f, "NOT VALID: {why}"),
        }
    }
}

type Column = fn(&Counts) -> u64;

const COLUMNS: [(&str, Column); 14] = [
    ("clients", |c| c.clients),
    ("sent", |c| c.sent),
    ("answered", |c| c.answered),
    ("lost", |c| c.lost),
    ("wrong", |c| c.wrong + c.unasked),
    ("retryable", |c| c.retryable),
    ("refused", |c| c.refused),
    ("opened", |c| c.opened),
    ("again", |c| c.reconnects),
    ("closed", |c| c.unannounced),
    ("announced", |c| c.announced),
    ("given up", |c| c.given_up),
    ("lived", |c| c.lived),
    ("of", |c| c.keeping),
];

const LATENCIES: [(&str, (bool, u8)); 8] = [
    ("answers", (true, 0)),
    ("p50", (true, 1)),
    ("p99", (true, 2)),
    ("max", (true, 3)),
    ("| answers", (false, 0)),
    ("p50", (false, 1)),
    ("p99", (false, 2)),
    ("max", (false, 3)),
];

impl Report {
    fn table<C>(
        &self,
        f: &mut fmt::Formatter<'_>,
        columns: &[(&str, C)],
        cell: impl Fn(&Kind, &C) -> String,
    ) -> fmt::Result {
        write!(f, "{:16}", "")?;
        for (name, _) in columns {
            write!(f, "{name:>10}")?;
        }
        writeln!(f)?;
        let several = self.kinds.len() > 1;
        for kind in self.kinds.iter().chain(several.then_some(&self.total)) {
            write!(f, "{:16}", kind.kind)?;
            for (_, column) in columns {
                write!(f, "{:>10}", cell(kind, column))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
