//! What the tests of this app share.

use crate::status::{
    Arbiter, Holder, Lease, Payload, PayloadState, Scope, ServiceState, Status, Worker,
};

use super::sample::{Cpu, Disk, Footprint, Memory, Network, Pressure, Sample};

impl Sample {
    /// A sample that knows nothing but its time.
    pub(super) fn at(time: f64) -> Self {
        Self {
            time,
            cpu: None,
            memory: None,
            pressure: Pressure::default(),
            load: None,
            disk: None,
            network: None,
            uptime: None,
            service: Footprint::default(),
        }
    }
}

/// A sample that knows everything.
pub(super) fn full_sample() -> Sample {
    Sample {
        time: 1_763_800_000.125,
        cpu: Some(Cpu {
            busy: 0.25,
            cores: vec![Some(0.5), None],
        }),
        memory: Some(Memory {
            total: 8,
            used: 3,
            available: 5,
            swap_total: 2,
            swap_used: 1,
        }),
        pressure: Pressure {
            cpu: Some(0.01),
            memory: Some(0.0),
            io: None,
        },
        load: Some([1.0, 0.5, 0.25]),
        disk: Some(Disk {
            read: 10.0,
            written: 20.0,
        }),
        network: Some(Network {
            received: 30.0,
            sent: 40.0,
        }),
        uptime: Some(99.5),
        service: Footprint {
            cpu: Some(0.02),
            memory: Some(4096),
        },
    }
}

/// A service of one worker that serves and whose sampler runs.
pub(super) fn status(worker: u32) -> Status {
    Status {
        arbiter: Arbiter {
            pid: 100,
            state: ServiceState::Ready,
            generation: 1,
            uptime: 12.5,
            workers: 1,
            version: "0.1.0".to_owned(),
            status: "1/1 workers serving, generation 1".to_owned(),
            log_drops: 0,
        },
        workers: vec![Worker {
            worker: 1,
            slot: 0,
            pid: worker,
            generation: 1,
            phase: "serving".to_owned(),
            since: 11.0,
            heartbeat: 0.1,
            connections: 2,
            in_flight: 1,
            busy: 0,
            requests: 40,
            accepted: 3,
            given: 0,
            received: 0,
            bytes_in: 400,
            bytes_out: 4000,
            panics: 0,
            loads: 1,
            starts: 1,
            stops: 0,
            restarts: 0,
            memory: 2_000_000,
            latency: vec![0; 28],
            log_drops: 0,
            payloads: vec![Payload {
                name: "sampler".to_owned(),
                scope: Scope::Service,
                state: PayloadState::Running,
                restarts: 0,
                last_failure: None,
            }],
        }],
        sockets: Vec::new(),
        leases: vec![Lease {
            payload: "sampler".to_owned(),
            scope: Scope::Service,
            slot: None,
            holder: Some(Holder {
                slot: 0,
                pid: worker,
                generation: 1,
                epoch: 7,
                since: 60.0,
                leaving: false,
            }),
            finished: false,
            grants: 1,
            gap: 0.0,
            failures: 0,
            again_in: None,
        }],
    }
}

/// The hash as a Content-Security-Policy writes it (FIPS 180-4, RFC 4648).
pub(super) fn sha256_base64(bytes: &[u8]) -> String {
    base64(&sha256(bytes))
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| {
            bits << 8 | u32::from(*chunk.get(at).unwrap_or(&0))
        });
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at > chunk.len() {
                '='
            } else {
                char::from(letter)
            });
        }
    }
    text
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    // The first 32 bits of the fractions of the square and cube roots of the first primes.
    let primes: Vec<u32> = (2..312).filter(|n| (2..*n).all(|d| n % d != 0)).collect();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a fraction times 2^32 fits"
    )]
    let fraction = |root: f64| (root.fract() * 4_294_967_296.0) as u32;
    let mut hash: Vec<u32> = primes
        .iter()
        .take(8)
        .map(|p| fraction(f64::from(*p).sqrt()))
        .collect();
    let round: Vec<u32> = primes
        .iter()
        .map(|p| fraction(f64::from(*p).cbrt()))
        .collect();
    assert_eq!(round.len(), 64);

    let mut message = bytes.to_vec();
    message.push(0x80);
    message.resize(message.len().next_multiple_of(64), 0);
    if message.len() - bytes.len() < 9 {
        message.resize(message.len() + 64, 0);
    }
    let end = message.len() - 8;
    message[end..].copy_from_slice(&(bytes.len() as u64 * 8).to_be_bytes());

    for block in message.chunks_exact(64) {
        let mut w: Vec<u32> = block
            .chunks_exact(4)
            .map(|b| u32::from_be_bytes(b.try_into().unwrap()))
            .collect();
        for i in 16..64 {
            let (a, b) = (w[i - 15], w[i - 2]);
            let a = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let b = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            w.push(
                w[i - 16]
                    .wrapping_add(a)
                    .wrapping_add(w[i - 7])
                    .wrapping_add(b),
            );
        }
        let mut v = hash.clone();
        for i in 0..64 {
            let (a, e) = (v[0], v[4]);
            let choice = (e & v[5]) ^ (!e & v[6]);
            let majority = (a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]);
            let one = (e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25))
                .wrapping_add(v[7])
                .wrapping_add(choice)
                .wrapping_add(round[i])
                .wrapping_add(w[i]);
            let two = (a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22))
                .wrapping_add(majority);
            v.rotate_right(1);
            v[4] = v[4].wrapping_add(one);
            v[0] = one.wrapping_add(two);
        }
        for (hash, v) in hash.iter_mut().zip(v) {
            *hash = hash.wrapping_add(v);
        }
    }
    let mut out = [0; 32];
    for (out, word) in out.chunks_exact_mut(4).zip(hash) {
        out.copy_from_slice(&word.to_be_bytes());
    }
    out
}

#[test]
fn the_hash_is_the_standard_one() {
    assert_eq!(
        sha256_base64(b""),
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    );
    assert_eq!(
        sha256_base64(b"abc"),
        "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="
    );
    let million = vec![b'a'; 1_000_000];
    assert_eq!(
        sha256_base64(&million),
        "zcduXJkU+5KBocfihNc+Z/GAmkiklyAOBG05zMcRLNA="
    );
}
