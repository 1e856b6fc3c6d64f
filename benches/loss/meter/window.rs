//! The times in which somebody disturbs the server.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

#[derive(Default)]
pub(crate) struct Windows(Mutex<Vec<Span>>);

struct Span {
    begin: Instant,
    end: Option<Instant>,
}

/// Where in a window something happened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Within {
    /// From 1.
    pub(crate) window: usize,
    /// Since the window's begin, in milliseconds.
    pub(crate) after_ms: f64,
}

impl Windows {
    /// The window's number, from 1.
    pub(crate) fn begin(&self) -> usize {
        let mut spans = self.spans();
        spans.push(Span {
            begin: Instant::now(),
            end: None,
        });
        spans.len()
    }

    pub(crate) fn end(&self, number: usize) {
        let mut spans = self.spans();
        if let Some(span) = number.checked_sub(1).and_then(|n| spans.get_mut(n)) {
            span.end = Some(Instant::now());
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.spans().len()
    }

    /// The latest window that has a moment in common with what lasted from `from` to `to`; the offset is that of
    /// `to`.
    pub(crate) fn within(&self, from: Instant, to: Instant) -> Option<Within> {
        let spans = self.spans();
        let index = spans
            .iter()
            .rposition(|span| span.begin <= to && span.end.is_none_or(|end| from <= end))?;
        let span = spans.get(index)?;
        Some(Within {
            window: index + 1,
            after_ms: millis(to.saturating_duration_since(span.begin)),
        })
    }

    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
