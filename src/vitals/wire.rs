//! What the workers tell each other, and what a sampler leaves to the next.
//!
//! ```text
//! sampler ─ SAMPLE ─> every page feed        one per sample
//! feed ──── ASK ────> sampler                by who has missed something: a new worker, or one that was slow
//! sampler ─ HISTORY ─> every page feed       once for all who have asked; who has it ignores it
//! ```
//!
//! The form is named in the topics: a binary with another one does not hear this one during an upgrade, and begins
//! with its own samples.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ring::{Place, Placed};
use super::sample::{Cpu, Disk, Footprint, Memory, Network, Pressure, Process, Sample};

pub(super) const SAMPLE: &str = "vitals/1/sample";
pub(super) const ASK: &str = "vitals/1/ask";
pub(super) const HISTORY: &str = "vitals/1/history";

/// A part of a history stays below this; a message has up to 64 KiB.
const PART: usize = 48 * 1024;

/// A fresh sample.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Fresh {
    pub(super) place: Place,
    /// The one before it that the sampler knows: who does not have that has missed something.
    pub(super) before: Option<Place>,
    pub(super) sample: Sample,
    pub(super) processes: Vec<Process>,
}

/// The wish for what came after that place.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) after: Option<Place>,
}

/// A part of the history.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    /// All parts together have everything after this.
    after: Option<Place>,
    rows: Vec<Row>,
    is_last: bool,
}

/// A sample without the words: place, time, CPU, memory, pressure, load, disk, network, uptime, this service.
type Row = (
    (u64, u64),
    f64,
    Option<(f64, Vec<Option<f64>>)>,
    Option<[u64; 5]>,
    [Option<f64>; 3],
    Option<[f64; 3]>,
    Option<[f64; 2]>,
    Option<[f64; 2]>,
    Option<f64>,
    (Option<f64>, Option<u64>),
);

impl Part {
    /// The samples after that place, in as many parts as it takes: at least one.
    pub(super) fn split(after: Option<Place>, samples: &[Placed]) -> Vec<Self> {
        let mut parts = vec![Self::default()];
        let mut length = 0;
        for (place, sample) in samples {
            let row = row(*place, sample);
            let size = serde_json::to_vec(&row).map_or(0, |text| text.len() + 1);
            if length + size > PART {
                parts.push(Self::default());
                length = 0;
            }
            length += size;
            if let Some(part) = parts.last_mut() {
                part.rows.push(row);
            }
        }
        for part in &mut parts {
            part.after = after;
        }
        if let Some(last) = parts.last_mut() {
            last.is_last = true;
        }
        parts
    }

    /// All of it in one part, for whom no length is too long.
    fn whole(samples: &[Placed]) -> Self {
        Self {
            after: None,
            rows: samples
                .iter()
                .map(|(place, sample)| row(*place, sample))
                .collect(),
            is_last: true,
        }
    }

    pub(super) fn samples(self) -> impl Iterator<Item = Placed> {
        self.rows.into_iter().map(sample)
    }

    /// Whether this ends an answer to who has everything up to that place.
    pub(super) fn ends(&self, asked: Option<Place>) -> bool {
        self.is_last && self.after <= asked
    }
}

/// What a sampler leaves to the next one, in up to `most` bytes, and of how many samples that is: of more than have room
/// the newer half, as often as it takes.
pub(super) fn legacy(samples: &[Placed], most: usize) -> (Bytes, usize) {
    let mut samples = samples;
    loop {
        let bytes = write(&Part::whole(samples));
        if bytes.len() <= most || samples.is_empty() {
            return (bytes, samples.len());
        }
        samples = &samples[samples.len().div_ceil(2)..];
    }
}

pub(super) fn write(message: &impl Serialize) -> Bytes {
    // None of these types can fail.
    serde_json::to_vec(message).unwrap_or_default().into()
}

/// `None`: it is of another form.
pub(super) fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

fn row(place: Place, sample: &Sample) -> Row {
    let Sample {
        time,
        cpu,
        memory,
        pressure,
        load,
        disk,
        network,
        uptime,
        service,
    } = sample;
    (
        (place.epoch, place.number),
        *time,
        cpu.as_ref().map(|cpu| (cpu.busy, cpu.cores.clone())),
        memory
            .as_ref()
            .map(|m| [m.total, m.used, m.available, m.swap_total, m.swap_used]),
        [pressure.cpu, pressure.memory, pressure.io],
        *load,
        disk.as_ref().map(|disk| [disk.read, disk.written]),
        network
            .as_ref()
            .map(|network| [network.received, network.sent]),
        *uptime,
        (service.cpu, service.memory),
    )
}

fn sample(row: Row) -> Placed {
    let (
        (epoch, number),
        time,
        cpu,
        memory,
        [p_cpu, p_memory, p_io],
        load,
        disk,
        network,
        uptime,
        service,
    ) = row;
    let sample = Sample {
        time,
        cpu: cpu.map(|(busy, cores)| Cpu { busy, cores }),
        memory: memory.map(|[total, used, available, swap_total, swap_used]| Memory {
            total,
            used,
            available,
            swap_total,
            swap_used,
        }),
        pressure: Pressure {
            cpu: p_cpu,
            memory: p_memory,
            io: p_io,
        },
        load,
        disk: disk.map(|[read, written]| Disk { read, written }),
        network: network.map(|[received, sent]| Network { received, sent }),
        uptime,
        service: Footprint {
            cpu: service.0,
            memory: service.1,
        },
    };
    (Place { epoch, number }, Arc::new(sample))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vitals::fixture::full_sample;

    fn samples(count: u64) -> Vec<Placed> {
        let place = |number| Place {
            epoch: 1_763_800_000_000_000,
            number,
        };
        (0..count)
            .map(|number| (place(number), Arc::new(full_sample())))
            .collect()
    }

    #[test]
    fn a_history_arrives_whole_in_parts_that_fit_a_message() {
        let sent = samples(2000);
        let parts = Part::split(None, &sent);
        assert!(parts.len() > 1);
        let mut received = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            let bytes = write(part);
            assert!(bytes.len() < 64 * 1024, "{}", bytes.len());
            let part: Part = read(&bytes).unwrap();
            assert_eq!(part.ends(None), at == parts.len() - 1);
            received.extend(part.samples());
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn an_answer_ends_for_who_has_asked_for_no_more_than_it_has() {
        let place = |number| Some(Place { epoch: 1, number });
        let part = Part::split(place(5), &[]).remove(0);
        assert!(part.ends(place(5)) && part.ends(place(6)));
        assert!(!part.ends(place(4)) && !part.ends(None));
    }

    #[test]
    fn a_quarter_of_an_hour_is_small() {
        let bytes = write(&Part::whole(&samples(900)));
        assert!(bytes.len() < 200_000, "{}", bytes.len());
    }

    #[test]
    fn what_has_no_room_is_left_in_halves_the_newest_last() {
        let all = samples(900);
        let (bytes, count) = legacy(&all, usize::MAX);
        assert_eq!(count, 900);
        let (half, count) = legacy(&all, bytes.len() - 1);
        assert_eq!(count, 450);
        assert!(half.len() < bytes.len());
        let part: Part = read(&half).unwrap();
        let left: Vec<_> = part.samples().collect();
        assert_eq!(left, all[450..]);
        assert_eq!(legacy(&all, 10).1, 0);
    }

    #[test]
    fn what_is_of_another_form_is_not_read() {
        assert_eq!(read::<Part>(b"{\"rows\":[[1,2]]}"), None);
        assert_eq!(read::<Fresh>(b""), None);
    }
}
