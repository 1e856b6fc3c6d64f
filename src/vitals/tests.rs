//! The app as a client sees it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::header::{self, HeaderMap};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use super::sample::{Cpu, Disk, Footprint, Memory, Network, Pressure};
use super::*;
use crate::body::Body;
use crate::testing::TestApp;
use crate::vitals::fixture::status;

struct Rig {
    vitals: Arc<Vitals>,
    drain: CancellationToken,
}

impl Rig {
    fn new() -> Self {
        Self::with_view(Arc::new(|| status(std::process::id())))
    }

    fn with_view(view: View) -> Self {
        let drain = CancellationToken::new();
        Self {
            vitals: Vitals::new(
                Settings::default(),
                view,
                Events::default(),
                Token::new(drain.clone()),
            ),
            drain,
        }
    }

    fn push(&self, sample: Sample) {
        self.vitals
            .publish(sample, Vec::new(), &self.vitals.status());
    }

    async fn call(&self, request: Request<Body>) -> Response<Body> {
        VitalsService::new(self.vitals.clone())
            .call(request)
            .await
            .unwrap()
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

fn full_sample() -> Sample {
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

#[tokio::test]
async fn the_keys_of_a_sample() {
    let json = serde_json::to_string_pretty(&[full_sample(), Sample::at(1.0)]).unwrap();
    insta::assert_snapshot!(json);
}

#[tokio::test]
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
    app.vitals
        .publish(Sample::at(1.0), vec![member], &status(101));
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
async fn health_follows_the_sampler() {
    let app = Rig::new();
    assert_eq!(
        app.get("/healthz").await.0,
        StatusCode::OK,
        "it has just begun"
    );
    tokio::time::advance(Duration::from_secs(9)).await;
    let (status, _, text) = app.get("/healthz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, "the sampler has been silent for 9 s\n");
    app.push(full_sample());
    assert_eq!(app.get("/healthz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn health_follows_every_payload_of_this_worker_and_of_no_other() {
    static IS_OWN: AtomicBool = AtomicBool::new(false);
    let app = Rig::with_view(Arc::new(|| {
        let own = IS_OWN.load(Relaxed);
        let mut status = status(if own { std::process::id() } else { 1 });
        status.workers[0].payloads[0].state = PayloadState::Restarting;
        status
    }));
    assert_eq!(app.get("/healthz").await.0, StatusCode::OK);
    IS_OWN.store(true, Relaxed);
    let (status, _, text) = app.get("/healthz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, "payload 'sampler' does not run\n");
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
    app.drain.cancel();
    assert_eq!(next(&mut body).await.unwrap(), "event: drain\ndata: {}\n\n");
    assert_eq!(next(&mut body).await, None);
    assert!(body.is_end_stream());
    assert_eq!(before.elapsed(), Duration::ZERO, "at once");
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

#[tokio::test(start_paused = true)]
async fn the_sampler_samples_at_its_interval_and_stops_when_told() {
    let app = Rig::new();
    let stop = CancellationToken::new();
    let task = tokio::spawn({
        let (vitals, stop) = (app.vitals.clone(), stop.clone());
        async move { vitals.sample_forever(Token::new(stop)).await }
    });
    let mut events = app.vitals.news.subscribe();
    let before = Instant::now();
    for _ in 0..4 {
        timeout(Duration::from_secs(60), events.changed())
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(
        before.elapsed().as_secs(),
        3,
        "the first at once, then one per second"
    );
    assert_eq!(
        app.get_json("/api/vitals").await["samples"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
    stop.cancel();
    timeout(Duration::from_secs(60), task)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(before.elapsed().as_secs(), 3, "at once");
}

#[tokio::test(start_paused = true)]
async fn as_an_app_it_samples_while_it_lives_and_leaves_when_told() {
    let mut app = TestApp::load(Settings::default(), load).await.unwrap();
    let stream = Request::builder()
        .uri("/api/vitals/stream")
        .body(Body::empty())
        .unwrap();
    let mut body = app.call(stream).await.unwrap().into_body();
    while !next(&mut body).await.unwrap().contains("\"sample\":{") {}
    app.drain();
    while next(&mut body).await.unwrap() != "event: drain\ndata: {}\n\n" {}
    assert_eq!(next(&mut body).await, None);
    let trace = app.trace();
    assert!(app.stop().await.is_empty(), "{trace:?}");
}
