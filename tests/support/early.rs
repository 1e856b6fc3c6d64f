//! What the probe has before it calls `payload::main`, and should not have, by `PROBE_EARLY` in its environment:
//! `runtime` (as `#[tokio::main]` has it), `current-thread` (the same with that flavor), `joined` (threads that have
//! ended).

use std::thread;

use tokio::runtime::{Builder, Runtime};

/// To be called in `main`; what it gives back is to be kept.
pub(crate) fn begin() -> Option<Runtime> {
    let runtime = match std::env::var("PROBE_EARLY").ok()?.as_str() {
        "runtime" => Builder::new_multi_thread().worker_threads(2).build(),
        "current-thread" => Builder::new_current_thread().build(),
        "joined" => {
            for _ in 0..50 {
                let _ = thread::spawn(|| {}).join();
            }
            return None;
        }
        _ => return None,
    }
    .ok()?;
    // Left when the process ends.
    std::mem::forget(Box::leak(Box::new(runtime.handle().clone())).enter());
    Some(runtime)
}
