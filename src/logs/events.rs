//! The lifecycle events: one table for the code, the journal and its catalog.
//!
//! A name or an id never changes its meaning once it was released: people filter and alert by them.

use tracing::Level;

macro_rules! events {
    ($($variant:ident $name:literal $level:ident $id:literal $subject:literal $text:literal)*) => {
        /// Something that happened in the life of the service. Emit it with [`lifecycle!`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Event {
            $(#[doc = $subject] $variant),*
        }

        const TABLE: &[Entry] = &[
            $(Entry { name: $name, level: Level::$level, id: $id, subject: $subject, text: $text }),*
        ];
    };
}

struct Entry {
    /// PAYLOAD_EVENT.
    name: &'static str,
    level: Level,
    /// MESSAGE_ID: a random 128-bit number, sd-id128(3).
    id: &'static str,
    /// The catalog's heading and text; `@FIELD@` is replaced by the record's field.
    #[cfg_attr(not(test), expect(dead_code, reason = "the catalog is made by a test"))]
    subject: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "the catalog is made by a test"))]
    text: &'static str,
}

impl Event {
    const fn entry(self) -> &'static Entry {
        &TABLE[self as usize]
    }

    /// The value of `payload_event`: `worker-forked`.
    pub(crate) const fn name(self) -> &'static str {
        self.entry().name
    }

    /// The value of `message_id`: 32 hexadecimal digits.
    pub(crate) const fn message_id(self) -> &'static str {
        self.entry().id
    }

    pub(crate) const fn level(self) -> Level {
        self.entry().level
    }
}

/// Emits a lifecycle event: an [`Event`] that is known at compile time, fields, a constant sentence.
///
/// Fields about a worker are named `payload_worker`, `payload_slot` and `payload_generation`, which is what
/// the journal calls them, in upper case. A worker leaves them out: every record of it has them.
///
/// ```text
/// lifecycle!(Event::WorkerForked, payload_worker = 7, payload_slot = 1, pid, "worker forked");
/// ```
macro_rules! lifecycle {
    ($event:expr, $($rest:tt)+) => {{
        const EVENT: $crate::logs::events::Event = $event;
        ::tracing::event!(
            target: "payload::lifecycle",
            EVENT.level(),
            payload_event = EVENT.name(),
            message_id = EVENT.message_id(),
            $($rest)+
        )
    }};
}
pub(crate) use lifecycle;

events! {
    ServiceStarting "service-starting" INFO "dc471bf521e641678b9dbbd1c5deb4d1"
        "The service starts"
        "The arbiter, process @_PID@, has its sockets and forks its workers now.\n\
         It reports ready when all of them serve."
    Preloaded "preloaded" INFO "d1854b79fbdffd70d057ae066412079c"
        "The preload is done"
        "The step that the service's author has the arbiter run before the fork has\n\
         succeeded. Every worker that is forked from now on shares its result."
    ServiceReady "service-ready" INFO "899b74f5663d4986b5ec87f508d0bff8"
        "The service is ready"
        "Every configured worker has finished its startup and accepts connections."
    ServiceDegraded "service-degraded" WARN "a1c4dfc0238442d9b5b9d8c1bb73edca"
        "The service is degraded"
        "A worker has failed, and until its slot has another one not every worker serves; or\n\
         more have failed than restart.crash_budget allows within restart.crash_window,\n\
         and those that follow wait with growing pauses; or a payload of which there is one\n\
         has failed wherever it was: the record names it, and it is tried again with growing\n\
         pauses, in which nobody runs it; or processes of an earlier life of the service are\n\
         left, which may still run it. The healthy workers go on serving. The records of\n\
         the failures stand before this one: look for PAYLOAD_EVENT=worker-failed,\n\
         payload-failed and lease-pauses."
    ServiceRecovered "service-recovered" INFO "f943ff2d01c74cf7ade11d40625a07fe"
        "The service has recovered"
        "Every configured worker serves again, and a payload that had failed wherever it was\n\
         has run for a while, or nobody needs it any more."
    ServiceIdle "service-idle" INFO "71100dd5e095e2bd4aa35c31145081b5"
        "The service is not needed and leaves"
        "For the time that idle_exit sets there was no connection, no request in flight\n\
         and nothing that the app had declared busy. The service ends with 0. The service\n\
         manager keeps the sockets: the next connection starts the service again."
    ServiceStopping "service-stopping" INFO "2e863caa79324cba80799849c3528a2f"
        "The service stops"
        "No new connections are taken. The workers finish their requests, or cancel them\n\
         where STOP is quick, stop their payloads and clean up, each within its limits\n\
         ([timeouts] in the configuration)."
    StopHurried "stop-hurried" WARN "c8e2fdb1553646b6a70b9812b9e0d050"
        "The stop is hurried"
        "A further signal came while the service was stopping, so it goes on to the\n\
         next phase at once: from waiting for requests to cancelling them, from there to\n\
         SIGKILL."
    ServiceStopped "service-stopped" INFO "c677a21fa60c45f6ab2dc1bbf324a6f0"
        "The service has stopped"
        "All workers are gone, and the arbiter ends."
    BootFailed "boot-failed" ERROR "45a78b9bac4f48a0aed144505e8a67ed"
        "The service could not start"
        "A worker failed before the service was ready for the first time, so the\n\
         service ends instead of trying again and again. The cause is in this record, or\n\
         in the worker's own records just before it."
    ForkFailed "fork-failed" ERROR "87d3bee6d86345b3913d5604a8a4664a"
        "No worker could be forked"
        "The record has the reason. Where the operating system refused to start another\n\
         process, look at TasksMax= of the unit, at the limit of processes of its user,\n\
         and at the memory of the machine. It is tried again with growing pauses."
    WorkerForked "worker-forked" INFO "10c8e38e6a24487fa09cf3e5c847c2ea"
        "Worker @PAYLOAD_WORKER@ was forked for slot @PAYLOAD_SLOT@"
        "A new worker process exists. Its startup begins now, and it accepts nothing\n\
         before it has succeeded."
    WorkerPhase "worker-phase" INFO "0e3d84e29c6345138409b0305149033f"
        "Worker @PAYLOAD_WORKER@ entered another phase"
        "A worker goes through the phases forked, loading, starting, prepared, serving,\n\
         draining, cleaning and exited. It may skip some and never goes back. CAUSE says\n\
         why it was forked; when it leaves, why it does: stop, restart, idle, reload,\n\
         reload-failed, recycle, scale, boot-failed, signal, arbiter-lost, or failed,\n\
         which its own records explain."
    WorkerReplaced "worker-replaced" INFO "836cb677ea524c26a7792e3ca1a970b6"
        "A worker has taken over slot @PAYLOAD_SLOT@"
        "The slot's new worker serves, and the old one finishes what it has."
    HandedOn "connections-handed-on" INFO "68622a0312da45179c9801dba99877c1"
        "Worker @PAYLOAD_WORKER@ has handed on its connections"
        "A worker that leaves gives its open connections to workers that stay; their\n\
         clients notice nothing. The record says how many were given, how many came\n\
         back since nobody took them, and how many were still open at the deadline."
    WorkerExited "worker-exited" INFO "6d242f17fe0a43dda1ce95b4f5af16bb"
        "Worker @PAYLOAD_WORKER@ has ended"
        "The process ended as it had been told to."
    WorkerFailed "worker-failed" ERROR "ec3d2dd949bf4ea3a17aa5afb4c47ea5"
        "Worker @PAYLOAD_WORKER@ has failed"
        "The process ended without having been told to, or ended with an error. Its\n\
         slot gets a new worker. Requests that it was answering are lost; new connections\n\
         go to the other workers."
    WorkerStuck "worker-stuck" ERROR "da7780f9eda645a69e0d6cb7aaa7b6c7"
        "Worker @PAYLOAD_WORKER@ is stuck"
        "The worker has overrun a limit: its runtime did not come around to beat for\n\
         too long, or it did not reach its next phase in time. The usual cause is code\n\
         that blocks the thread it runs on (a lock, a slow system call, a long\n\
         computation) instead of awaiting. The record has a backtrace where one could be\n\
         had. The worker gets SIGABRT, then SIGKILL. Once the service is ready it is\n\
         replaced; before that, the start has failed."
    WorkerTrace "worker-trace" ERROR "bc161b0367ce47e7804cb99b63c4cc3a"
        "What a thread of the stuck worker @PAYLOAD_WORKER@ was doing"
        "The backtrace of one thread at the moment when the worker was given up. Look for\n\
         the outermost function of the service's own code: it blocks its thread."
    WorkerKilled "worker-killed" WARN "90e19cceddd042cc96c2b007f27a333a"
        "Worker @PAYLOAD_WORKER@ was killed"
        "The worker did not leave within its limits, or the stop was hurried so far that\n\
         nobody waits for it. It got SIGKILL, and the rest of its teardown does not run."
    WorkerBackoff "worker-backoff" WARN "f803dcb3d6394dd5b1361231d681d5e2"
        "Slot @PAYLOAD_SLOT@ waits before its next worker"
        "The slot's worker has failed before it had served for ten seconds, or more workers\n\
         have failed than restart.crash_budget allows. The next attempt comes after a pause\n\
         that grows with each failure in a row."
    Recycle "recycle" INFO "727bc461d74f4a4b83f2bf362f9a329d"
        "Worker @PAYLOAD_WORKER@ is recycled"
        "The healthy worker has reached a limit of [recycle], requests, age or memory, or the\n\
         number of slots has changed and it has a payload that can be told so by a new\n\
         worker only: CAUSE says which. It goes on serving until its replacement is prepared."
    SlotCountChanged "slot-count-changed" INFO "d6ce31502b8e4170953fe7ccea324bcd"
        "The number of workers changes"
        "An operator asked for more or fewer workers."
    SlotCountRefused "slot-count-refused" WARN "47bbc2d918b740fd96141dd3e52f5f62"
        "The number of workers stays"
        "The number that was asked for is not possible: there is always at least one\n\
         worker, and an upper limit."
    SignalReceived "signal-received" INFO "57979730c4f247b78b45b3a879ab8f85"
        "The arbiter received a signal"
        "SIGTERM stops the service gracefully, SIGINT and SIGQUIT quickly, SIGUSR2 before\n\
         it is started again; SIGTTIN and SIGTTOU change the number of workers by one."
    ReloadStarted "reload-started" INFO "4b64837a18b14cf9bdfe7e56088d283a"
        "A reload has begun"
        "The binary on disk is checked first. Then the arbiter goes over to it, in the\n\
         same process, and makes a new generation of workers with the configuration as it\n\
         is now. The old generation serves until the new one has proved itself."
    ImageChanged "image-changed" INFO "f5cdbecaf7a64dd7b16647f734a14f3d"
        "The arbiter goes on in a new image"
        "In the same process, as a part of a reload: the program that is on disk now, which\n\
         may be the same as before, where DIRECTION is forward; or, when that has failed,\n\
         the one that ran before, where it is back. The workers served meanwhile."
    Reloaded "reloaded" INFO "2c5201bbfe0543ad99cbdf8a8f87bb96"
        "The service has been reloaded"
        "The workers of generation @PAYLOAD_GENERATION@ serve. Those before them give\n\
         their connections away, finish what they have and leave."
    ReloadFailed "reload-failed" ERROR "283c346181c14ab1a2c91fd254714d0c"
        "The reload failed: @REASON@"
        "The workers that served before serve on, with the binary and the configuration that\n\
         they were started with, and those that replace them have the same, unless the reason\n\
         says that the way back failed as well. Cure the reason and reload again."
    ConnectionsKept "connections-kept" INFO "447a2b43fd6b459a82336fb69b6def8a"
        "Connections are kept over the restart"
        "The service stops to be started again, and the service manager's file\n\
         descriptor store holds @KEPT@ of its connections meanwhile. @CLOSED@ were closed,\n\
         since the store had no room for them: FileDescriptorStoreMax= of the unit says\n\
         how many it has."
    ConnectionsAdopted "connections-adopted" INFO "eace4d3bb8674e8e8aaea02f5a642dba"
        "Connections of the last run were taken over"
        "The workers serve @ADOPTED@ connections that came back from the service manager's\n\
         file descriptor store. @CLOSED@ were closed, since nothing was known of them; the\n\
         records before this one may say why."
    SocketAcquired "socket-acquired" INFO "8e6d83eb037f428098dbbb77cc2a6faf"
        "The service has a listening socket"
        "It was passed by the service manager or bound by payload, as the record says."
    ArbiterLost "arbiter-lost" WARN "37ba1610435046a4bb0b240be1b5ffad"
        "Worker @PAYLOAD_WORKER@ has lost its arbiter"
        "The parent process is gone. The worker finishes its requests, cleans up and\n\
         ends."
    StepFailed "step-failed" ERROR "c522fac0dca047beb95d6cb6dfc03c78"
        "A step of the app failed"
        "A startup or teardown step of the service's own code returned an error,\n\
         panicked or took too long. After a failed startup step the earlier ones are\n\
         torn down in reverse order. After a failed teardown step the others still run."
    PayloadStarted "payload-started" INFO "b9cbbd503a5649b8816d15cff8938195"
        "A payload runs"
        "A background task of the app was started under its supervisor."
    PayloadEnded "payload-ended" INFO "650fcdc82fca497cb58f4d7c62317986"
        "A payload has ended"
        "A background task of the app has ended as it should."
    PayloadFailed "payload-failed" ERROR "b2365e3abaa64237b0617ef27e19bf53"
        "A payload has failed"
        "A background task of the app returned an error, panicked, or ended although it\n\
         should run until told to stop. Its policy says what follows: a critical one\n\
         takes its worker along, which drains and is replaced; one with restart is\n\
         started again after a pause; one with once stays ended."
    LeaseGranted "lease-granted" INFO "91cdb88c6ff32ef97cf1fba205eb5166"
        "Payload @PAYLOAD@ runs in worker @PAYLOAD_WORKER@"
        "The worker has got the lease of a payload of which there is one in the service, or\n\
         one for each slot. For GAP_SECONDS before, nobody had it, whatever the reason: since\n\
         the last sign of its last holder. The EPOCH rises with each grant. KEPT_BYTES is how\n\
         much of what its last holder has kept came along."
    PayloadsKept "payloads-kept" INFO "05308ca69a0148b7ac1a413ad9d3ef08"
        "What payloads have kept waits for the next start"
        "The service stops to be started again. KEPT of its payloads have left something to\n\
         themselves, and it is in the service manager's file descriptor store now; what LOST\n\
         others have left had no room there, or there is no store. See\n\
         FileDescriptorStoreMax= in systemd.service(5)."
    LeaseRevoked "lease-revoked" INFO "956b0837ec2546fc46c1a6de85f992c6"
        "Worker @PAYLOAD_WORKER@ is to stop payload @PAYLOAD@"
        "The number of slots changes, so the payload's work has to be shared anew. It stops\n\
         in every slot, and starts again when it has stopped everywhere."
    LeaseReleased "lease-released" INFO "b529d77f86ecdaf71e4f037a997f6001"
        "Payload @PAYLOAD@ runs no more in worker @PAYLOAD_WORKER@"
        "It has stopped, finished or failed, or its worker is gone, as CAUSE says; or it was\n\
         not begun, since what its last holder has kept could not be taken (the worker has no\n\
         file descriptor left), since the arbiter had no room to send the lease (memory, or\n\
         descriptors on their way; a warning before this one has the error), or since the\n\
         worker was gone already. An unknown CAUSE is that of a newer program. The next\n\
         worker gets the lease. HELD_SECONDS go to its end, or to the last sign of a worker\n\
         that died or was stuck."
    LeasePauses "lease-pauses" WARN "cbc8307dd71680b29e409c9c81bcf103"
        "Payload @PAYLOAD@ waits before it runs again"
        "It failed, or its worker died under it or could not take it, several times in a\n\
         row. So that it does not take every worker along, the next one gets it after a\n\
         pause that grows with each failure."
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::fmt::Write;
    use std::path::Path;

    /// `journalctl -x` shows these texts; the format is that of systemd's catalog files.
    fn catalog() -> String {
        let mut catalog = String::from(
            "# The journal catalog of payload: journalctl -x shows these texts.\n\
             # Made from src/logs/events.rs; `PAYLOAD_TEST_WRITE_CATALOG=1 cargo test catalog` makes it anew.\n",
        );
        for Entry {
            name,
            id,
            subject,
            text,
            ..
        } in TABLE
        {
            write!(
                catalog,
                "\n# {name}\n-- {id}\nSubject: {subject}\nDefined-By: payload\n\n{text}\n"
            )
            .unwrap();
        }
        catalog
    }

    #[test]
    fn the_packaged_catalog_is_that_of_the_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/payload.catalog");
        if std::env::var_os("PAYLOAD_TEST_WRITE_CATALOG").is_some() {
            std::fs::write(&path, catalog()).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).is_ok_and(|file| file == catalog()),
            "{} differs from the table: run this test with PAYLOAD_TEST_WRITE_CATALOG=1",
            path.display()
        );
    }

    #[test]
    fn names_and_ids_are_well_formed_and_unique() {
        let mut seen = HashSet::new();
        for Entry { name, id, .. } in TABLE {
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
                "{name}"
            );
            assert_eq!(id.len(), 32);
            assert!(
                id.bytes()
                    .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
            );
            assert!(
                seen.insert(name) && seen.insert(id),
                "{name} is there twice"
            );
        }
    }

    #[test]
    fn an_event_finds_its_own_row() {
        assert_eq!(Event::ServiceStarting.name(), "service-starting");
        assert_eq!(Event::PayloadFailed.name(), "payload-failed");
        assert_eq!(Event::WorkerFailed.level(), Level::ERROR);
    }
}
