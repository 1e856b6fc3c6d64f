//! Clients that speak HTTP/1.1.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::client::{Client, End};
use super::exchange::{Script, exchange};
use super::request::Request;
use super::wire::Wire;

/// What a client of HTTP/1.1 does on its connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Habit {
    /// Small requests and answers and now and then a large one; think time from 0 to 20 ms.
    Brisk,
    /// The same; think time from 0.2 to 4 s.
    Thoughtful,
    /// Answers that take the server 200 ms, or now and then 2 s.
    SlowAnswers,
    /// Bodies that are sent in dribbles.
    SlowUploads,
    /// So many requests at once.
    Pipelines(usize),
    /// Heads that are sent in two or three parts, some behind a whole request.
    HalfHeads,
}

/// Keeps its connection as long as it can.
pub(super) async fn keep(client: Rc<Client>, habit: Habit) {
    let mut random = client.random();
    while let Some(stream) = client.connect().await {
        let mut wire = Wire::new(stream);
        // Who connects wants to ask soon.
        let mut pause = millis(random.u64(0..=100));
        loop {
            if !client.think(&mut wire, pause).await {
                break;
            }
            pause = habit.think(&mut random);
            // Over or not, one more request: it shows whether the connection is still good.
            let last = client.stopping();
            let script = habit.script(&client, &mut random);
            if let Err(end) = exchange(&client, &mut wire, &script, None).await {
                client.ended(end).await;
                break;
            }
            if last {
                if client.think(&mut wire, Duration::ZERO).await {
                    client.lived();
                }
                return;
            }
        }
    }
}

/// A connection for each request; every other one says so in the request.
pub(super) async fn one_by_one(client: Rc<Client>) {
    let mut random = client.random();
    loop {
        client.wait(millis(random.u64(0..=20))).await;
        let since = Instant::now();
        let Some(stream) = client.connect().await else {
            return;
        };
        let mut request = small(&client, &mut random);
        if random.bool() {
            request = request.closing();
        }
        let mut wire = Wire::new(stream);
        let ended = exchange(&client, &mut wire, &Script::of(request), Some(since)).await;
        match ended {
            // It would have closed the connection anyway.
            Ok(()) | Err(End::Announced) => (),
            Err(end) => client.ended(end).await,
        }
    }
}

impl Habit {
    fn think(self, random: &mut fastrand::Rng) -> Duration {
        millis(match self {
            Self::Brisk | Self::Pipelines(_) | Self::HalfHeads => random.u64(0..=20),
            Self::Thoughtful => random.u64(200..=4000),
            Self::SlowAnswers | Self::SlowUploads => random.u64(0..=100),
        })
    }

    fn script(self, client: &Client, random: &mut fastrand::Rng) -> Script {
        match self {
            Self::Brisk | Self::Thoughtful => Script::of(mixed(client, random)),
            Self::SlowAnswers => {
                let ms = if random.u8(0..5) == 0 { 2000 } else { 200 };
                Script::of(Request::sleep(client.next_id(), ms))
            }
            Self::SlowUploads => upload(client, random),
            Self::Pipelines(depth) => {
                let mut script = Script::default();
                for _ in 0..depth {
                    script.add(small(client, random));
                }
                script
            }
            Self::HalfHeads => halves(client, random),
        }
    }
}

/// In up to ten dribbles, 5 to 50 ms apart; every other body is chunked.
fn upload(client: &Client, random: &mut fastrand::Rng) -> Script {
    let size = random.usize(100..=20_000);
    let chunks = if random.bool() { 1 + size / 7 } else { 0 };
    let mut script = Script::default();
    let places = script.add(Request::upload(client.next_id(), size, chunks));
    let mut cuts: Vec<usize> = (0..random.usize(3..=10))
        .map(|_| random.usize(places.body..places.end))
        .collect();
    cuts.sort_unstable();
    for cut in cuts {
        script.pause(cut, millis(random.u64(5..=50)));
    }
    script
}

fn halves(client: &Client, random: &mut fastrand::Rng) -> Script {
    let mut script = Script::default();
    if random.bool() {
        script.add(small(client, random));
    }
    let places = script.add(small(client, random));
    let mut cuts = [(); 2].map(|()| random.usize(places.start + 1..places.body));
    cuts.sort_unstable();
    let longest = if random.u8(0..20) == 0 { 1000 } else { 50 };
    for cut in cuts {
        script.pause(cut, millis(random.u64(1..=longest)));
    }
    script
}

fn small(client: &Client, random: &mut fastrand::Rng) -> Request {
    if random.bool() {
        Request::id(client.next_id())
    } else {
        Request::echo(client.next_id(), random.usize(10..=2000))
    }
}

fn mixed(client: &Client, random: &mut fastrand::Rng) -> Request {
    match random.u8(0..20) {
        0 => Request::big(client.next_id(), 300_000),
        1 => Request::echo(client.next_id(), 50_000),
        2 => Request::upload(client.next_id(), 3000, 700),
        _ => small(client, random),
    }
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
