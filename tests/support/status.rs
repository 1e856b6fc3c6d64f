//! What a service says about itself on its control socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;

use serde_json::Value;

use super::log::number;
use super::service::{Service, payload};
use super::{DEADLINE, eventually, within};

impl Service {
    /// `payload status` with these arguments, for this service.
    pub(crate) fn status_command(&self, arguments: &[&str]) -> Command {
        let mut command = payload(&["status"]);
        command.args(arguments).arg("--control").arg(self.control());
        command
    }

    /// Its status, asked without a process for each question.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        eventually("an answer from the control socket", DEADLINE, || {
            self.try_status()
        })
    }

    /// Waits until the status is as it should become.
    #[track_caller]
    pub(crate) fn status_where(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = within(DEADLINE, || {
            last = self.try_status()?;
            fits(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("not within {DEADLINE:?}: {what}\n{last:#}"))
    }

    fn try_status(&self) -> Option<Value> {
        let mut stream = UnixStream::connect(self.control()).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        stream.write_all(b"{\"command\":\"status\"}\n").ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        let mut answer: Value = serde_json::from_str(&answer).ok()?;
        answer.get_mut("status").map(Value::take)
    }

    /// The pids of the workers that serve, by slot.
    #[track_caller]
    pub(crate) fn workers(&self) -> Vec<u32> {
        let status = self.status();
        let serving = workers_of(&status).iter().filter(|worker| serves(worker));
        serving.map(|worker| number(&worker["pid"])).collect()
    }

    /// One number of each worker, by slot.
    #[track_caller]
    pub(crate) fn each(&self, key: &str) -> Vec<u64> {
        let count = |worker: &Value| worker[key].as_u64().expect("a number");
        workers_of(&self.status()).iter().map(count).collect()
    }

    /// One number of all workers together.
    #[track_caller]
    pub(crate) fn sum(&self, key: &str) -> u64 {
        self.each(key).iter().sum()
    }

    /// Waits until a number of all workers together is this.
    #[track_caller]
    pub(crate) fn wait_for_sum(&self, key: &str, wanted: u64) {
        self.status_where(&format!("{key} is {wanted}"), |status| {
            let counts = workers_of(status).iter().filter_map(|w| w[key].as_u64());
            counts.sum::<u64>() == wanted
        });
    }

    /// Waits until there are so many workers and all of them serve.
    #[track_caller]
    pub(crate) fn wait_until_serving(&self, count: usize) {
        self.status_where(&format!("{count} workers serve"), |status| {
            let workers = workers_of(status);
            workers.len() == count && workers.iter().all(serves)
        });
    }

    /// Waits until this worker is gone and its successor serves.
    #[track_caller]
    pub(crate) fn wait_until_replaced(&self, pid: u32) {
        self.status_where(&format!("{pid} is replaced"), |status| {
            let workers = workers_of(status);
            let complete = status["arbiter"]["workers"] == workers.len();
            let gone = workers.iter().all(|worker| worker["pid"] != pid);
            complete && gone && workers.iter().all(serves)
        });
    }
}

/// Its workers, by slot.
pub(crate) fn workers_of(status: &Value) -> &[Value] {
    status["workers"].as_array().map_or(&[], Vec::as_slice)
}

fn serves(worker: &Value) -> bool {
    worker["phase"] == "serving"
}
