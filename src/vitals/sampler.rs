//! Turns counters into samples: remembers the last reading and says what happened since.

use std::collections::HashMap;
use std::time::Instant;

use super::proc::Source;
use super::proc::devices::{self, Devices};
use super::proc::machine::{self, Cpus};
use super::proc::process::{self, Spent, USER_HZ};
use super::rounded;
use super::sample::{Cpu, Disk, Footprint, Memory, Network, Pressure, Process, Sample};
use crate::status::Status;

/// How many processes have their proportional set size measured with one sample. The kernel walks the
/// page tables for it, so a large service is gone through in turns.
const MEASURED: usize = 4;

/// A process of this service, as the service's view names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) pid: u32,
    /// `None` is the arbiter.
    pub(super) slot: Option<u32>,
    /// Bytes that the arbiter measured already, 0 when it did not.
    pub(super) memory: u64,
}

/// The processes of this service that live.
pub(super) fn members(status: &Status) -> Vec<Member> {
    let arbiter = Member {
        pid: status.arbiter.pid,
        slot: None,
        memory: 0,
    };
    let workers = status
        .workers
        .iter()
        .filter(|worker| worker.pid != 0)
        .map(|worker| Member {
            pid: worker.pid,
            slot: Some(worker.slot),
            memory: worker.memory,
        });
    std::iter::once(arbiter).chain(workers).collect()
}

/// The last reading of every counter.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    at: Option<Instant>,
    cpus: Option<Cpus>,
    disks: Option<Devices>,
    interfaces: Option<Devices>,
    processes: HashMap<u32, Known>,
    /// Where the next turn of memory measurements begins.
    turn: usize,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    spent: Spent,
    memory: Option<u64>,
}

impl Sampler {
    /// Takes one sample. `time` is the seconds since 1970.
    ///
    /// Blocks for the time of some small reads; one of another process's memory can wait for that process.
    pub(super) fn take(
        &mut self,
        source: &impl Source,
        members: &[Member],
        now: Instant,
        time: f64,
    ) -> (Sample, Vec<Process>) {
        let elapsed = self
            .at
            .replace(now)
            .map(|earlier| now.saturating_duration_since(earlier).as_secs_f64());
        let elapsed = elapsed.filter(|seconds| *seconds > 0.0);
        let processes = self.processes(source, members, elapsed);
        let sample = Sample {
            time: (time * 1000.0).round() / 1000.0,
            cpu: self.cpu(source),
            memory: source
                .read("/proc/meminfo")
                .as_deref()
                .and_then(machine::memory)
                .map(memory),
            pressure: pressure(source),
            load: source
                .read("/proc/loadavg")
                .as_deref()
                .and_then(machine::load),
            disk: self.disk(source, elapsed),
            network: self.network(source, elapsed),
            uptime: source
                .read("/proc/uptime")
                .as_deref()
                .and_then(machine::uptime),
            service: footprint(&processes),
        };
        (sample, processes)
    }

    fn cpu(&mut self, source: &impl Source) -> Option<Cpu> {
        let now = source.read("/proc/stat").as_deref().and_then(machine::cpus);
        let earlier = std::mem::replace(&mut self.cpus, now.clone())?;
        let now = now?;
        let core = |(number, now): (usize, &Option<machine::Ticks>)| {
            let earlier = earlier.cores.get(number).copied().flatten()?;
            now.as_ref()?.share_since(earlier).map(rounded)
        };
        Some(Cpu {
            busy: now.total.share_since(earlier.total).map(rounded)?,
            cores: now.cores.iter().enumerate().map(core).collect(),
        })
    }

    fn disk(&mut self, source: &impl Source, elapsed: Option<f64>) -> Option<Disk> {
        let now = source
            .read("/proc/diskstats")
            .as_deref()
            .and_then(devices::disks);
        let (read, written) = rates(&mut self.disks, now, elapsed)?;
        Some(Disk { read, written })
    }

    fn network(&mut self, source: &impl Source, elapsed: Option<f64>) -> Option<Network> {
        // Not /proc/net/dev: that is hidden with ProcSubset=pid, and is a link to this one.
        let now = source
            .read("/proc/self/net/dev")
            .as_deref()
            .and_then(devices::interfaces);
        let (received, sent) = rates(&mut self.interfaces, now, elapsed)?;
        Some(Network { received, sent })
    }

    fn processes(
        &mut self,
        source: &impl Source,
        members: &[Member],
        elapsed: Option<f64>,
    ) -> Vec<Process> {
        let earlier = std::mem::take(&mut self.processes);
        let count = members.len().max(1);
        let turn = self.turn % count;
        self.turn = turn + MEASURED;
        let is_due = |at: usize| (at + count - turn) % count < MEASURED;
        let mut found = Vec::with_capacity(members.len());
        for (at, member) in members.iter().enumerate() {
            let stat = source.read(&format!("/proc/{}/stat", member.pid));
            let Some(spent) = stat.as_deref().and_then(process::spent) else {
                // Gone, or hidden from us: what the arbiter measured is all there is.
                found.push(Process {
                    pid: member.pid,
                    slot: member.slot,
                    uses: Footprint {
                        cpu: None,
                        memory: Some(member.memory).filter(|b| *b > 0),
                    },
                });
                continue;
            };
            // A later process with the same pid is another one.
            let known = earlier
                .get(&member.pid)
                .filter(|known| known.spent.started == spent.started);
            let cpu = known.zip(elapsed).map(|(known, seconds)| {
                let ticks = spent.ticks.saturating_sub(known.spent.ticks);
                rounded(ticks as f64 / USER_HZ / seconds)
            });
            let memory = match known {
                _ if member.memory > 0 => Some(member.memory),
                Some(known) if !is_due(at) => known.memory,
                _ => measured(source, member.pid),
            };
            self.processes.insert(member.pid, Known { spent, memory });
            let uses = Footprint { cpu, memory };
            found.push(Process {
                pid: member.pid,
                slot: member.slot,
                uses,
            });
        }
        found
    }
}

fn measured(source: &impl Source, pid: u32) -> Option<u64> {
    let rollup = source.read(&format!("/proc/{pid}/smaps_rollup"));
    rollup
        .as_deref()
        .and_then(process::proportional)
        .or_else(|| {
            source
                .read(&format!("/proc/{pid}/status"))
                .as_deref()
                .and_then(process::resident)
        })
}

fn memory(memory: machine::Memory) -> Memory {
    Memory {
        total: memory.total,
        used: memory.total.saturating_sub(memory.available),
        available: memory.available,
        swap_total: memory.swap_total,
        swap_used: memory.swap_total.saturating_sub(memory.swap_free),
    }
}

fn pressure(source: &impl Source) -> Pressure {
    let read = |path| {
        source
            .read(path)
            .as_deref()
            .and_then(machine::pressure)
            .map(rounded)
    };
    Pressure {
        cpu: read("/proc/pressure/cpu"),
        memory: read("/proc/pressure/memory"),
        io: read("/proc/pressure/io"),
    }
}

fn rates(
    earlier: &mut Option<Devices>,
    now: Option<Devices>,
    elapsed: Option<f64>,
) -> Option<(f64, f64)> {
    let earlier = std::mem::replace(earlier, now.clone())?;
    let passed = devices::passed(&now?, &earlier);
    let seconds = elapsed?;
    let rate = |bytes: u64| (bytes as f64 / seconds).round();
    Some((rate(passed.inward), rate(passed.outward)))
}

/// `None` only when it is known of no process.
fn footprint(processes: &[Process]) -> Footprint {
    let cpu: Vec<f64> = processes
        .iter()
        .filter_map(|process| process.uses.cpu)
        .collect();
    let memory: Vec<u64> = processes
        .iter()
        .filter_map(|process| process.uses.memory)
        .collect();
    Footprint {
        cpu: (!cpu.is_empty()).then(|| rounded(cpu.iter().sum())),
        memory: (!memory.is_empty()).then(|| memory.iter().sum()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::LazyLock;
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Texts(BTreeMap<String, String>);

    impl Source for Texts {
        fn read(&self, path: &str) -> Option<String> {
            self.0.get(path).cloned()
        }
    }

    impl Texts {
        fn with(mut self, path: &str, text: impl Into<String>) -> Self {
            self.0.insert(path.to_owned(), text.into());
            self
        }

        fn process(self, pid: u32, ticks: u64, started: u64, pss: u64) -> Self {
            let zeros = "0 ".repeat(6);
            self.with(
                &format!("/proc/{pid}/stat"),
                format!(
                    "{pid} (payload) S {}{ticks} 0 {zeros}{started} 0 0\n",
                    "0 ".repeat(10)
                ),
            )
            .with(
                &format!("/proc/{pid}/smaps_rollup"),
                format!("Pss: {pss} kB\n"),
            )
        }
    }

    fn second(number: u64) -> Instant {
        static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
        *FIRST + Duration::from_secs(number)
    }

    fn member(pid: u32, slot: Option<u32>) -> Member {
        Member {
            pid,
            slot,
            memory: 0,
        }
    }

    #[test]
    fn where_everything_is_hidden_every_value_is_null() {
        let mut sampler = Sampler::default();
        let members = [
            member(1, None),
            Member {
                pid: 2,
                slot: Some(0),
                memory: 7,
            },
        ];
        sampler.take(&Texts::default(), &members, second(0), 100.0);
        let (sample, processes) = sampler.take(&Texts::default(), &members, second(1), 101.0);
        assert_eq!(
            sample,
            Sample {
                service: Footprint {
                    cpu: None,
                    memory: Some(7)
                },
                ..Sample::at(101.0)
            }
        );
        assert_eq!(processes[0].uses, Footprint::default());
        assert_eq!(processes[1].uses.memory, Some(7), "the arbiter measured it");
    }

    #[test]
    fn rates_and_shares_are_of_the_time_that_really_passed() {
        let texts = |busy: u64, idle: u64, sectors: u64, bytes: u64| {
            Texts::default()
                .with(
                    "/proc/stat",
                    format!("cpu {busy} 0 0 {idle}\ncpu0 {busy} 0 0 {idle}\n"),
                )
                .with(
                    "/proc/diskstats",
                    format!("8 0 sda 0 0 {sectors} 0 0 0 0 0 0 0 0\n"),
                )
                .with(
                    "/proc/self/net/dev",
                    format!("eth0: {bytes} 0 0 0 0 0 0 0 0 0\n"),
                )
        };
        let mut sampler = Sampler::default();
        let (first, _) = sampler.take(&texts(0, 0, 0, 0), &[], second(0), 0.0);
        assert_eq!((first.cpu, first.disk, first.network), (None, None, None));
        let (sample, _) = sampler.take(&texts(50, 150, 8, 1000), &[], second(2), 2.0);
        assert_eq!(
            sample.cpu,
            Some(Cpu {
                busy: 0.25,
                cores: vec![Some(0.25)]
            })
        );
        assert_eq!(
            sample.disk,
            Some(Disk {
                read: 2048.0,
                written: 0.0
            })
        );
        assert_eq!(
            sample.network,
            Some(Network {
                received: 500.0,
                sent: 0.0
            })
        );
    }

    #[test]
    fn a_file_that_vanishes_for_once_costs_two_samples_and_makes_no_spike() {
        let net = |bytes: u64| {
            let line = format!("eth0: {bytes} 0 0 0 0 0 0 0 0 0\n");
            Texts::default().with("/proc/self/net/dev", line)
        };
        let mut sampler = Sampler::default();
        let mut take = |texts: &Texts, at| sampler.take(texts, &[], second(at), 0.0).0.network;
        assert_eq!(take(&net(1000), 0), None);
        assert_eq!(take(&Texts::default(), 1), None);
        assert_eq!(take(&net(900_000), 2), None);
        assert_eq!(
            take(&net(900_010), 3),
            Some(Network {
                received: 10.0,
                sent: 0.0
            })
        );
    }

    #[test]
    fn a_cpu_that_came_back_has_no_share_until_the_next_sample() {
        let stat = |text: &str| Texts::default().with("/proc/stat", text);
        let mut sampler = Sampler::default();
        let mut cores = |text: &str, at| {
            let (sample, _) = sampler.take(&stat(text), &[], second(at), 0.0);
            sample.cpu.map(|cpu| cpu.cores)
        };
        assert_eq!(cores("cpu 10 0 0 100\ncpu0 10 0 0 100\n", 1), None);
        let both = "cpu 20 0 0 110\ncpu0 20 0 0 110\ncpu1 0 0 0 5\n";
        assert_eq!(cores(both, 2), Some(vec![Some(0.5), None]));
        let both = "cpu 30 0 0 130\ncpu0 30 0 0 120\ncpu1 0 0 0 15\n";
        assert_eq!(cores(both, 3), Some(vec![Some(0.5), Some(0.0)]));
    }

    #[test]
    fn processes_of_the_service_and_their_sum() {
        let members = [member(10, None), member(11, Some(0))];
        let mut sampler = Sampler::default();
        let texts = Texts::default()
            .process(10, 5, 1, 100)
            .process(11, 100, 2, 200);
        let (first, _) = sampler.take(&texts, &members, second(0), 0.0);
        assert_eq!(
            first.service,
            Footprint {
                cpu: None,
                memory: Some(300 * 1024)
            }
        );
        let texts = Texts::default()
            .process(10, 5, 1, 100)
            .process(11, 150, 2, 200);
        let (sample, processes) = sampler.take(&texts, &members, second(2), 2.0);
        assert_eq!(
            processes[0].uses,
            Footprint {
                cpu: Some(0.0),
                memory: Some(100 * 1024)
            }
        );
        assert_eq!(processes[1].slot, Some(0));
        assert_eq!(processes[1].uses.cpu, Some(0.25));
        assert_eq!(sample.service.cpu, Some(0.25));
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let members = [member(10, Some(0))];
        let mut sampler = Sampler::default();
        sampler.take(
            &Texts::default().process(10, 1000, 1, 1),
            &members,
            second(0),
            0.0,
        );
        let texts = Texts::default().process(10, 2000, 99, 2);
        let (_, processes) = sampler.take(&texts, &members, second(1), 1.0);
        assert_eq!(
            processes[0].uses,
            Footprint {
                cpu: None,
                memory: Some(2048)
            }
        );
    }

    #[test]
    fn memory_of_many_processes_is_measured_in_turns() {
        let members: Vec<Member> = (1..=10).map(|pid| member(pid, Some(pid))).collect();
        let all = |pss| (1..=10).fold(Texts::default(), |texts, pid| texts.process(pid, 0, 0, pss));
        let mut sampler = Sampler::default();
        sampler.take(&all(1), &members, second(0), 0.0);
        let mut fresh = |at| {
            let (_, processes) = sampler.take(&all(2), &members, second(at), 0.0);
            processes
                .iter()
                .filter(|process| process.uses.memory == Some(2048))
                .count()
        };
        assert_eq!((fresh(1), fresh(2), fresh(3)), (4, 8, 10));
    }

    #[test]
    fn where_the_proportional_size_is_not_readable_the_resident_one_stands_in() {
        let texts = Texts::default().with("/proc/7/status", "VmRSS:\t 3 kB\n");
        assert_eq!(measured(&texts, 7), Some(3072));
        assert_eq!(measured(&texts, 8), None);
    }

    #[test]
    fn the_running_kernel_can_be_read() {
        use crate::vitals::proc::Kernel;
        let members = [member(std::process::id(), None)];
        let (_, processes) = Sampler::default().take(&Kernel, &members, second(0), 0.0);
        assert!(processes[0].uses.memory.is_some_and(|bytes| bytes > 0));
    }
}
