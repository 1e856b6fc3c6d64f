//! The app as a client sees it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header::{self, HeaderMap};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::ring::Place;
use super::sample::{Footprint, Process, Sample};
use super::state::{View, Vitals};
use super::wire::{self, Fresh};
use super::*;
use crate::testing::TestApp;
use crate::vitals::fixture::{full_sample, status};
use crate::{Body, Events, LifecycleEvent, Subscription};

struct Rig {
    vitals: Arc<Vitals>,
}

impl Rig {
    fn new() -> Self {
        Self::with_view(Arc::new(|| status(std::process::id())))
    }

    fn with_view(view: View) -> Self {
        let vitals = Vitals::new(Settings::default(), view, Events::default());
        Self {
            vitals: Arc::new(vitals),
        }
    }

    fn push(&self, sample: Sample) {
        self.push_with(sample, Vec::new());
    }

    fn push_with(&self, sample: Sample, processes: Vec<Process>) {
        let before = self.vitals.newest();
        self.vitals.hear(Fresh {
            place: Place {
                epoch: 1,
                number: before.map_or(0, |place| place.number + 1),
            },
            before,
            sample,
            processes,
        });
    }

    async fn call(&self, request: Request<Body>) -> Response<Body> {
        std::future::ready(routes::respond(&self.vitals, &request)).await
    }

    async fn send(&self, method: Method, uri: &str) -> Response<Body> {
        self.call(
            Request::builder()
                .method(method)
                .uri(uri)
                .body(Body::empty())
                .unwrap(),
        )
        .await
    }

    async fn get(&self, uri: &str) -> (StatusCode, HeaderMap, String) {
        read(self.send(Method::GET, uri).await).await
    }

    async fn get_json(&self, uri: &str) -> serde_json::Value {
        let (status, headers, text) = self.get(uri).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        serde_json::from_str(&text).unwrap()
    }
}

async fn read(response: Response<Body>) -> (StatusCode, HeaderMap, String) {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (
        parts.status,
        parts.headers,
        String::from_utf8(bytes.to_vec()).unwrap(),
    )
}

const ROUTES: [&str; 6] = [
    "/",
    "/api/vitals",
    "/api/vitals/stream",
    "/api/service",
    "/api/events",
    "/healthz",
];

#[tokio::test]
async fn the_keys_of_a_sample() {
    let json = serde_json::to_string_pretty(&[full_sample(), Sample::at(1.0)]).unwrap();
    insta::assert_snapshot!(json);
}

#[tokio::test(start_paused = true)]
async fn the_keys_of_an_event() {
    let app = Rig::with_view(Arc::new(|| status(101)));
    let member = Process {
        pid: 100,
        slot: None,
        uses: Footprint {
            cpu: Some(0.01),
            memory: Some(4096),
        },
    };
    app.push_with(Sample::at(1.0), vec![member]);
    let (_, frame) = app.vitals.greeting();
    let text = std::str::from_utf8(&frame).unwrap();
    let data = text
        .strip_prefix("event: vitals\ndata: ")
        .unwrap()
        .strip_suffix("\n\n")
        .unwrap();
    assert!(!data.contains('\n'));
    let mut json: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(json["pid"].take(), std::process::id());
    json["service"]["workers"][0]["latency"].take();
    insta::assert_snapshot!(serde_json::to_string_pretty(&json).unwrap());
}

#[tokio::test]
async fn the_page_is_complete_and_locked_down() {
    let (status, headers, html) = Rig::new().get("/").await;
    assert_eq!(status, StatusCode::OK);
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
    assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
    assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(headers[header::REFERRER_POLICY], "no-referrer");
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"));
    assert!(!policy.contains("unsafe"));
}

#[tokio::test]
async fn a_page_that_did_not_change_is_not_sent_again() {
    let app = Rig::new();
    let (_, headers, _) = app.get("/").await;
    let etag = headers[header::ETAG].to_str().unwrap();
    for known in [
        etag.to_owned(),
        format!("W/{etag}"),
        format!("\"other\", {etag}"),
        "*".to_owned(),
    ] {
        let request = Request::builder()
            .uri("/")
            .header(header::IF_NONE_MATCH, known);
        let (status, headers, text) =
            read(app.call(request.body(Body::empty()).unwrap()).await).await;
        assert_eq!((status, text.as_str()), (StatusCode::NOT_MODIFIED, ""));
        assert_eq!(headers[header::ETAG], etag);
    }
    let request = Request::builder()
        .uri("/")
        .header(header::IF_NONE_MATCH, "\"other\"");
    let (status, ..) = read(app.call(request.body(Body::empty()).unwrap()).await).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_not_there_is_404_and_says_what_is() {
    let app = Rig::new();
    for path in ["/favicon.ico", "/api", "/api/vitals/", "//", "/index.html"] {
        let (status, headers, text) = app.get(path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(ROUTES.iter().all(|route| text.contains(route)));
    }
    assert_eq!(
        app.send(Method::POST, "/nowhere").await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn everything_can_only_be_read() {
    let app = Rig::new();
    for route in ROUTES {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let response = app.send(method, route).await;
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(response.headers()[header::ALLOW], "GET, HEAD");
        }
    }
}

#[tokio::test]
async fn head_answers_as_get_does_without_the_body() {
    let app = Rig::new();
    app.push(full_sample());
    for route in ROUTES {
        let get = app.send(Method::GET, route).await;
        let length = get.body().size_hint().exact();
        let head = app.send(Method::HEAD, route).await;
        assert_eq!(head.status(), get.status());
        let mut headers = head.headers().clone();
        let said = headers.remove(header::CONTENT_LENGTH);
        assert_eq!(
            said.map(|said| said.to_str().unwrap().to_owned()),
            length.map(|n| n.to_string())
        );
        assert_eq!(&headers, get.headers());
        assert_eq!(read(head).await.2, "");
    }
}

#[tokio::test]
async fn the_history_is_given_whole_or_in_part() {
    let app = Rig::new();
    for time in 1..=5 {
        app.push(Sample::at(f64::from(time)));
    }
    let times = async |uri: &str| {
        let json = app.get_json(uri).await;
        let samples = json["samples"].as_array().unwrap().clone();
        samples
            .iter()
            .map(|sample| sample["time"].as_f64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(times("/api/vitals").await, [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(times("/api/vitals?last=2").await, [4.0, 5.0]);
    assert_eq!(times("/api/vitals?since=3").await, [4.0, 5.0]);
    assert_eq!(times("/api/vitals?after=1,2").await, [4.0, 5.0]);
    assert_eq!(times("/api/vitals?after=2,0").await, [0.0; 0]);
    let json = app.get_json("/api/vitals?last=0").await;
    assert_eq!(json["interval"], 1.0);
    assert_eq!(json["capacity"], 900);
    assert_eq!(json["pid"], std::process::id());
}

#[tokio::test]
async fn a_query_that_is_not_understood_is_refused_with_the_cure() {
    let app = Rig::new();
    for query in [
        "last=-1",
        "last=",
        "since=x",
        "since=inf",
        "after=1",
        "after=1,x",
        "first=3",
        "last",
        "last=1&since=2",
    ] {
        let (status, _, text) = app.get(&format!("/api/vitals?{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert!(text.contains("?last=COUNT"));
    }
}

#[tokio::test]
async fn the_service_is_shown_as_it_says_itself() {
    let json = Rig::with_view(Arc::new(|| status(101)))
        .get_json("/api/service")
        .await;
    assert_eq!(json, serde_json::to_value(status(101)).unwrap());
}

#[tokio::test(start_paused = true)]
async fn health_is_that_of_this_worker_and_its_sampler() {
    let app = Rig::new();
    let (status, _, text) = app.get("/healthz").await;
    assert_eq!((status, &*text), (StatusCode::OK, "ok\n"), "just begun");
    tokio::time::advance(Duration::from_secs(9)).await;
    let (status, _, text) = app.get("/healthz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, "the sampler, in worker 0, has been silent for 9 s\n");
    app.push(full_sample());
    assert_eq!(app.get("/healthz").await.0, StatusCode::OK);
}

async fn next(body: &mut Body) -> Option<String> {
    let frame = timeout(Duration::from_secs(60), body.frame())
        .await
        .expect("a frame in time")?;
    let bytes = frame.unwrap().into_data().unwrap();
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_with_what_is_known_and_follows_every_sample() {
    let app = Rig::new();
    let response = app.send(Method::GET, "/api/vitals/stream").await;
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/event-stream"
    );
    let mut body = response.into_body();
    let first = next(&mut body).await.unwrap();
    assert!(
        first.starts_with("retry: 1000\n\nevent: vitals\ndata: {\"pid\":"),
        "{first}"
    );
    assert!(first.contains("\"sample\":null"));
    app.push(Sample::at(7.0));
    let second = next(&mut body).await.unwrap();
    assert!(
        second.starts_with("event: vitals\ndata: {") && second.ends_with("}\n\n"),
        "{second}"
    );
    assert!(second.contains("\"time\":7.0"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_says_that_it_is_still_there() {
    let mut body = Rig::new()
        .send(Method::GET, "/api/vitals/stream")
        .await
        .into_body();
    next(&mut body).await.unwrap();
    let before = Instant::now();
    assert_eq!(next(&mut body).await.unwrap(), ": still here\n\n");
    assert_eq!(before.elapsed().as_secs(), 15);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_every_stream_with_a_word() {
    let app = Rig::new();
    let mut body = app
        .send(Method::GET, "/api/vitals/stream")
        .await
        .into_body();
    next(&mut body).await.unwrap();
    let before = Instant::now();
    app.vitals.end_streams();
    assert_eq!(next(&mut body).await.unwrap(), "event: drain\ndata: {}\n\n");
    assert_eq!(next(&mut body).await, None);
    assert!(body.is_end_stream());
    assert_eq!(before.elapsed(), Duration::ZERO, "at once");
    let late = app.send(Method::GET, "/api/vitals/stream").await;
    let mut body = late.into_body();
    assert!(next(&mut body).await.unwrap().contains("event: vitals"));
    assert_eq!(next(&mut body).await.unwrap(), "event: drain\ndata: {}\n\n");
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_misses_samples_and_keeps_none_in_memory() {
    let app = Rig::new();
    let mut body = app
        .send(Method::GET, "/api/vitals/stream")
        .await
        .into_body();
    next(&mut body).await.unwrap();
    for time in 1..=100 {
        app.push(Sample::at(f64::from(time)));
    }
    assert!(next(&mut body).await.unwrap().contains("\"time\":100.0"));
    assert_eq!(next(&mut body).await.unwrap(), ": still here\n\n");
}

#[tokio::test]
async fn a_closed_stream_is_forgotten() {
    let app = Rig::new();
    let body = app
        .send(Method::GET, "/api/vitals/stream")
        .await
        .into_body();
    assert_eq!(app.vitals.news.receiver_count(), 1);
    drop(body);
    assert_eq!(app.vitals.news.receiver_count(), 0);
}

async fn vitals_of(app: &TestApp, query: &str) -> serde_json::Value {
    let uri = format!("/api/vitals{query}");
    let request = Request::builder().uri(uri).body(Body::empty()).unwrap();
    let (status, _, text) = read(app.call(request).await.unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn times(vitals: &serde_json::Value) -> Vec<f64> {
    let samples = vitals["samples"].as_array().unwrap().iter();
    samples
        .map(|sample| sample["time"].as_f64().unwrap())
        .collect()
}

async fn message<T: serde::de::DeserializeOwned>(subscription: &mut Subscription) -> T {
    let message = timeout(Duration::from_secs(60), subscription.recv()).await;
    wire::read(message.expect("in time").unwrap().bytes()).unwrap()
}

/// The app, and what its sampler tells.
async fn app() -> (TestApp, Subscription) {
    let app = TestApp::load(Settings::default(), load).await.unwrap();
    let samples = app.messages().subscribe(wire::SAMPLE);
    (app, samples)
}

#[tokio::test(start_paused = true)]
async fn the_sampler_tells_everybody_at_its_interval_and_stops_when_told() {
    let (app, mut samples) = app().await;
    let first: Fresh = message(&mut samples).await;
    let begun = Instant::now();
    let mut before = first.place;
    for _ in 0..3 {
        let next: Fresh = message(&mut samples).await;
        assert_eq!(next.before, Some(before));
        before = next.place;
    }
    assert_eq!(begun.elapsed().as_millis(), 3000, "one per second");
    assert!(
        first.sample.service.cpu.is_some(),
        "the first has rates as well"
    );
    assert_eq!(times(&vitals_of(&app, "").await).len(), 4);
    let told = Instant::now();
    assert!(app.stop().await.is_empty());
    assert!(told.elapsed() < Duration::from_millis(1), "at once");
}

#[tokio::test(start_paused = true)]
async fn the_next_sampler_goes_on_with_the_history() {
    let (mut app, mut samples) = app().await;
    for _ in 0..3 {
        message::<Fresh>(&mut samples).await;
    }
    let trace = app.trace();
    app.revoke(SAMPLER);
    while !trace.contains("payload 'sampler' released") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = times(&vitals_of(&app, "").await);
    app.grant(SAMPLER, 1);
    let fresh: Fresh = message(&mut samples).await;
    assert_eq!((fresh.place.epoch, fresh.place.number), (2, 0));
    assert!(fresh.before.is_some_and(|place| place.epoch == 1));
    let after = times(&vitals_of(&app, "").await);
    assert_eq!(after[..3], before[..]);
    assert_eq!(after.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn who_has_missed_something_asks_and_all_who_ask_get_one_answer() {
    let (app, mut samples) = app().await;
    for _ in 0..3 {
        message::<Fresh>(&mut samples).await;
    }
    let messages = app.messages();
    let mut history = messages.subscribe(wire::HISTORY);
    for after in [
        Some(Place {
            epoch: 1,
            number: 1,
        }),
        Some(Place {
            epoch: 1,
            number: 0,
        }),
    ] {
        let ask = wire::write(&wire::Ask { after });
        messages.publish(wire::ASK, ask).unwrap();
    }
    let part: wire::Part = message(&mut history).await;
    assert!(part.ends(Some(Place {
        epoch: 1,
        number: 0
    })));
    let numbers: Vec<_> = part.samples().map(|(place, _)| place.number).collect();
    assert_eq!(numbers, [1, 2]);
    let more = timeout(Duration::from_millis(900), history.recv()).await;
    assert!(more.is_err(), "one answer for both");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_was_slow_gets_what_it_has_missed() {
    let (app, mut samples) = app().await;
    // The first question, that of a new worker, has its answer by then.
    for _ in 0..4 {
        message::<Fresh>(&mut samples).await;
    }
    let last: Fresh = message(&mut samples).await;
    // A sample of another worker that comes after some which never came here.
    let messages = app.messages();
    let mut asks = messages.subscribe(wire::ASK);
    let place = |number| Place { epoch: 9, number };
    let late = Fresh {
        place: place(5),
        before: Some(place(4)),
        sample: Sample::at(5.0),
        processes: Vec::new(),
    };
    messages.publish(wire::SAMPLE, wire::write(&late)).unwrap();
    let ask: wire::Ask = message(&mut asks).await;
    assert_eq!(ask.after, Some(last.place));
    let missed: Vec<_> = (0..5)
        .map(|number| (place(number), Arc::new(Sample::at(number as f64))))
        .collect();
    for part in wire::Part::split(ask.after, &missed) {
        messages.publish(wire::HISTORY, wire::write(&part)).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    let known = times(&vitals_of(&app, "").await);
    assert_eq!(known[5..], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_samples_still_shows_the_service() {
    let app = Rig::new();
    app.push(Sample::at(1.0));
    let mut body = app
        .send(Method::GET, "/api/vitals/stream")
        .await
        .into_body();
    next(&mut body).await.unwrap();
    let silent = app.vitals.clone();
    tokio::spawn(async move {
        silent.silence().await;
        silent.tick_without_sample();
    });
    let before = Instant::now();
    let tick = next(&mut body).await.unwrap();
    assert!(
        tick.contains("\"sample\":null") && tick.contains("\"arbiter\""),
        "{tick}"
    );
    assert_eq!(before.elapsed().as_millis(), 1500);
}

/// The data of the next event of a stream.
async fn data(body: &mut Body) -> serde_json::Value {
    let frame = next(body).await.unwrap();
    let (_, data) = frame.split_once("data: ").unwrap();
    serde_json::from_str(data).unwrap()
}

#[tokio::test(start_paused = true)]
async fn how_old_the_latest_sample_is_is_said_to_who_comes_and_who_stays() {
    let app = Rig::new();
    let process = Process {
        pid: 100,
        slot: None,
        uses: Footprint::default(),
    };
    app.push_with(Sample::at(1.0), vec![process]);
    tokio::time::advance(Duration::from_secs(4)).await;
    let response = app.send(Method::GET, "/api/vitals/stream").await;
    let mut body = response.into_body();
    let greeting = data(&mut body).await;
    assert_eq!(
        (&greeting["age"], &greeting["sample"]["time"]),
        (&4.0.into(), &1.0.into())
    );
    assert_eq!(greeting["processes"].as_array().unwrap().len(), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    app.vitals.tick_without_sample();
    let tick = data(&mut body).await;
    assert_eq!(
        (&tick["age"], &tick["sample"]),
        (&5.0.into(), &serde_json::Value::Null)
    );
    assert!(
        tick["processes"].as_array().unwrap().is_empty(),
        "that was another time"
    );
    let history = app.get_json("/api/vitals").await;
    assert!(history["processes"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_history_that_was_only_learned_is_as_old_as_it_is() {
    let app = Rig::new();
    let place = Place::default();
    let old = Sample::at(wall_clock() - 60.0);
    app.vitals.learn([(place, Arc::new(old))]);
    let response = app.send(Method::GET, "/api/vitals/stream").await;
    let age = data(&mut response.into_body()).await["age"].as_f64();
    assert!(age.is_some_and(|age| age >= 60.0), "{age:?}");
}

#[tokio::test]
async fn while_nobody_listens_nobody_looks_at_the_service() {
    static LOOKS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let app = Rig::with_view(Arc::new(|| {
        LOOKS.fetch_add(1, Relaxed);
        status(101)
    }));
    let event = serde_json::json!({
        "number": 1, "time": 1.5, "name": "recycle", "level": "info", "message": "", "worker": 1, "slot": 0,
        "generation": 1, "pid": 7, "fields": {},
    });
    let event: LifecycleEvent = serde_json::from_value(event).unwrap();
    app.push(Sample::at(1.0));
    app.vitals.happened(&[Arc::new(event)], 0);
    app.vitals.tick_without_sample();
    assert_eq!(LOOKS.load(Relaxed), 0);
}

#[tokio::test]
async fn below_a_path_it_is_the_same_app() {
    let app = TestApp::load(Settings::default(), async |context: Context<Settings>| {
        let machine = load(context).await?;
        let nothing = service_fn(async |_| Ok(Response::new(Body::empty())));
        Result::Ok(App::builder().mount("/a/machine", machine).build(nothing))
    });
    let app = app.await.unwrap();
    let get = async |uri: &str| {
        let request = Request::builder().uri(uri).body(Body::empty()).unwrap();
        read(app.call(request).await.unwrap()).await
    };
    let (status, headers, _) = get("/a/machine").await;
    assert_eq!(status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(headers[header::LOCATION], "./machine/");
    let (status, _, html) = get("/a/machine/").await;
    assert_eq!(status, StatusCode::OK);
    for word in ["\"/api", "\"/health", "`/api"] {
        assert!(!html.contains(word), "{word} leads elsewhere");
    }
    assert_eq!(get("/a/machine/api/vitals").await.0, StatusCode::OK);
    assert_eq!(get("/a/machine/healthz").await.0, StatusCode::OK);
}

/// Where there is what kind of value, in any order; what has no keys of its own is a value.
fn outline(json: &serde_json::Value, path: &str, into: &mut std::collections::BTreeSet<String>) {
    match json {
        // By name what else a record has.
        serde_json::Value::Object(keys) if !path.ends_with(".fields") => {
            for (key, value) in keys {
                outline(value, &format!("{path}.{key}"), into);
            }
        }
        serde_json::Value::Array(list)
            if list.first().is_some_and(serde_json::Value::is_object) =>
        {
            for value in list {
                outline(value, &format!("{path}[]"), into);
            }
        }
        _ => {
            into.insert(path.to_owned());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_interface_is_as_it_is_written_down() {
    let app = Rig::with_view(Arc::new(|| {
        let mut status = status(101);
        status.sockets.push(crate::status::Socket {
            name: "http".to_owned(),
            address: "127.0.0.1:8080".to_owned(),
            origin: "bound".to_owned(),
        });
        status
    }));
    let event = serde_json::json!({
        "number": 1, "time": 1.5, "name": "recycle", "level": "info", "message": "", "worker": 1, "slot": 0,
        "generation": 1, "pid": 7, "fields": {},
    });
    let event = |number: u64| {
        let mut event: LifecycleEvent = serde_json::from_value(event.clone()).unwrap();
        event.number = number;
        Arc::new(event)
    };
    let process = Process {
        pid: 100,
        slot: None,
        uses: Footprint::default(),
    };
    app.push_with(full_sample(), vec![process]);
    app.vitals.happened(&[event(1)], 0);
    let response = app.send(Method::GET, "/api/vitals/stream").await;
    let mut body = response.into_body();
    let greeting = data(&mut body).await;
    app.vitals.happened(&[event(2)], 0);
    let lifecycle = data(&mut body).await;
    let all = [app.get_json("/api/vitals").await, greeting, lifecycle];
    let text = include_str!("interface.md");
    let written: Vec<&str> = text
        .split("```json\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(written.len(), all.len());
    for (sent, written) in all.iter().zip(written) {
        let parsed =
            serde_json::from_str(written).unwrap_or_else(|error| panic!("{error}: {written}"));
        let (mut is, mut should) = Default::default();
        outline(sent, "", &mut is);
        outline(&parsed, "", &mut should);
        assert_eq!(is, should);
    }
}

#[tokio::test(start_paused = true)]
async fn lifecycle_events_are_sent_as_they_come_and_the_last_ones_first_of_all() {
    let app = Rig::new();
    let event = |number: u64| {
        let event = serde_json::json!({
            "number": number, "time": 1.5, "name": "worker-forked", "level": "info", "message": "worker forked",
            "worker": 1, "slot": 0, "generation": 1, "pid": 7, "fields": { "cause": "boot" },
        });
        Arc::new(serde_json::from_value::<LifecycleEvent>(event).unwrap())
    };
    app.vitals.happened(&[event(1)], 0);
    let mut body = app
        .send(Method::GET, "/api/vitals/stream")
        .await
        .into_body();
    let greeting = next(&mut body).await.unwrap();
    assert!(
        greeting.contains("\"events\":[{\"number\":1,"),
        "{greeting}"
    );
    app.vitals.happened(&[event(1), event(2), event(3)], 7);
    let frame = next(&mut body).await.unwrap();
    assert!(
        frame.starts_with("event: lifecycle\ndata: {\"pid\":"),
        "{frame}"
    );
    assert!(!frame.contains("\"number\":1,"), "it was told");
    assert!(frame.contains("\"number\":2,") && frame.contains("\"number\":3,"));
    assert!(frame.contains("\"missed\":7,"));
    app.push(Sample::at(1.0));
    assert!(!next(&mut body).await.unwrap().contains("\"events\""));
    app.vitals.events.extend([event(1)]);
    assert_eq!(
        app.get_json("/api/events").await[0]["name"],
        "worker-forked"
    );
}

#[tokio::test(start_paused = true)]
async fn a_thousand_streams_cost_one_greeting_and_one_frame_each_tick() {
    static LOOKS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let app = Rig::with_view(Arc::new(|| {
        LOOKS.fetch_add(1, Relaxed);
        status(101)
    }));
    let mut bodies = Vec::new();
    for _ in 0..1000 {
        bodies.push(
            app.send(Method::GET, "/api/vitals/stream")
                .await
                .into_body(),
        );
    }
    for body in &mut bodies {
        next(body).await.unwrap();
    }
    assert_eq!(LOOKS.swap(0, Relaxed), 1);
    app.push(Sample::at(1.0));
    for body in &mut bodies {
        next(body).await.unwrap();
    }
    assert_eq!(LOOKS.load(Relaxed), 1);
}

/// Reads until there is such a frame.
async fn until(body: &mut Body, is_it: impl Fn(&str) -> bool) {
    let found = async { while !is_it(&next(body).await.unwrap()) {} };
    timeout(Duration::from_secs(60), found).await.unwrap();
}

#[tokio::test]
async fn it_ends_behind_the_last_reading() {
    let mut handle = None;
    let app = TestApp::load(Settings::default(), async |context: Context<Settings>| {
        let vitals = Vitals::of(&context);
        handle = Some(vitals.readings.clone());
        Result::Ok(super::app(vitals))
    });
    let (app, readings) = (app.await.unwrap(), handle.unwrap());
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    tokio::spawn(async move {
        let reading = move || (begun.send(()), gate.recv());
        readings.take(reading).await
    });
    has_begun.await.unwrap();
    let trace = app.trace();
    let stop = tokio::spawn(app.stop());
    trace.until("teardown 'readings' begun").await;
    tokio::task::yield_now().await;
    assert!(!trace.contains("teardown 'readings' done"));
    drop(go);
    assert!(stop.await.unwrap().is_empty());
    assert!(trace.contains("teardown 'readings' done"));
}

#[tokio::test(start_paused = true)]
async fn as_an_app_it_samples_while_it_lives_and_leaves_when_told() {
    let mut app = TestApp::load(Settings::default(), load).await.unwrap();
    let stream = Request::builder()
        .uri("/api/vitals/stream")
        .body(Body::empty())
        .unwrap();
    let mut body = app.call(stream).await.unwrap().into_body();
    until(&mut body, |frame| frame.contains("\"sample\":{")).await;
    app.drain();
    until(&mut body, |frame| frame == "event: drain\ndata: {}\n\n").await;
    assert_eq!(next(&mut body).await, None);
    let trace = app.trace();
    assert!(app.stop().await.is_empty(), "{trace:?}");
    let lines = trace.lines();
    let first = |line: &str| lines.iter().position(|seen| seen == line).unwrap();
    let last = |line: &str| lines.iter().rposition(|seen| seen == line).unwrap();
    assert!(first("startup 'readings' done") < first("payload 'sampler' running"));
    assert!(last("payload 'sampler' done") < first("teardown 'readings' begun"));
    assert!(trace.contains("teardown 'readings' done"));
    assert!(trace.contains("drain 'streams' done"));
}
