//! What the author's values do when they are dropped, and his errors when they are asked what they say.

#![expect(clippy::panic, reason = "what it is about")]

use std::fmt;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use payload::testing::TestApp;
use payload::{App, AppBuilder, Body, Payload, PayloadContext, Scope, State, service_fn};

use crate::{SECOND, build, failing, obedient, pair, request, soon, start, start_fails, texts};

/// Panics when it is dropped.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("boom");
    }
}

/// Says what it is and then panics, or panics when it is asked.
#[derive(Debug)]
enum Wicked {
    Dropped(Bomb),
    Asked,
}

impl fmt::Display for Wicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wicked::Dropped(_) => f.write_str("wicked"),
            Wicked::Asked => panic!("do not ask"),
        }
    }
}

impl std::error::Error for Wicked {}

fn wicked(asked: bool) -> payload::Result<()> {
    Err(if asked {
        Wicked::Asked.into()
    } else {
        Wicked::Dropped(Bomb).into()
    })
}

const KINDS: [(bool, &str); 2] = [(false, "failed: wicked"), (true, "panicked: do not ask")];

#[tokio::test(start_paused = true)]
async fn an_error_of_a_step_that_panics_is_an_outcome_like_any_other() {
    for (asked, said) in KINDS {
        let broken = pair(App::builder(), "a").startup("x", async move |_| wicked(asked));
        let failed = start_fails(broken).await;
        assert_eq!(failed.to_string(), format!("startup step 'x' {said}"));
        assert!(failed.trace().contains("teardown 'a' done"));

        let broken = pair(App::builder(), "a")
            .teardown("x", async move |_| wicked(asked))
            .on_drain("y", async move |_| wicked(asked));
        let app = start(broken).await;
        let trace = app.trace();
        let expected = [
            format!("drain step 'y' {said}"),
            format!("teardown step 'x' {said}"),
        ];
        assert_eq!(texts(&soon(app.stop()).await), expected);
        assert!(trace.contains("teardown 'a' done"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_payload_that_panics_is_an_outcome_like_any_other() {
    for (asked, said) in KINDS {
        let critical = Payload::new("p", async move |_| wicked(asked));
        let app = start(App::builder().payload(critical)).await;
        assert_eq!(soon(app.failed()).await.cause(), said);

        let again = Payload::restarting("p", move |context: PayloadContext| async move {
            if context.restarts() == 0 {
                return wicked(asked);
            }
            obedient(context).await
        });
        let app = start(App::builder().payload(again)).await;
        soon(app.trace().until_times("payload 'p' running", 2)).await;
        assert!(soon(app.stop()).await.is_empty());

        let leased = Payload::once("p", async move |_| wicked(asked)).scope(Scope::Service);
        let app = start(App::builder().payload(leased)).await;
        soon(app.trace().until("payload 'p' released")).await;
    }
}

fn holding(builder: AppBuilder, name: &str) -> AppBuilder {
    let bomb = Bomb;
    builder.startup(name, async move |_| {
        let _ = &bomb;
        Ok(())
    })
}

/// A thread pool or a blocking client that is dropped where it must not be.
#[tokio::test(start_paused = true)]
async fn what_was_never_started_is_dropped_behind_the_unwinding_and_each_for_itself() {
    let builder = pair(App::builder(), "a").startup("x", async |_| failing());
    let builder = holding(holding(builder, "c"), "d");
    let bomb = Bomb;
    let builder = builder.payload(Payload::new("p", move |context| {
        let _ = &bomb;
        obedient(context)
    }));
    let failed = start_fails(builder).await;
    assert_eq!(failed.to_string(), "startup step 'x' failed: it broke");
    assert_eq!(
        texts(failed.failure().unwinding()),
        [
            "dropping what 'p' holds panicked: boom",
            "dropping what 'd' holds panicked: boom",
            "dropping what 'c' holds panicked: boom",
        ]
    );
    let lines = failed.trace().lines();
    assert_eq!(
        lines[lines.len() - 2..],
        ["teardown 'a' done", "app failed"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_an_app_that_was_built_wrongly_holds_is_dropped_the_same_way() {
    let builder = holding(App::builder(), "c").state(1_u8).state(2_u8);
    let failed = start_fails(builder).await;
    assert!(failed.to_string().contains("u8 was registered twice"));
    assert_eq!(
        texts(failed.failure().unwinding()),
        ["dropping what 'c' holds panicked: boom"]
    );
}

#[tokio::test(start_paused = true)]
async fn drain_steps_that_were_never_due_are_dropped_each_for_itself() {
    let draining = |builder: AppBuilder, name: &str| {
        let bomb = Bomb;
        builder.on_drain(name, async move |_| {
            let _ = &bomb;
            Ok(())
        })
    };
    let builder = draining(draining(App::builder(), "c"), "d").state(Bomb);
    let failed = start_fails(builder.startup("x", async |_| failing())).await;
    assert_eq!(
        texts(failed.failure().unwinding()),
        [
            "dropping what 'd' holds panicked: boom",
            "dropping what 'c' holds panicked: boom",
            "dropping what 'app' holds panicked: boom",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_is_slow_to_drop_a_bomb_is_reported_at_its_stop() {
    let payload = Payload::new("p", async |_| {
        let _bomb = Bomb;
        std::future::pending().await
    });
    let app = start(App::builder().payload(payload.stop_timeout(SECOND))).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(
        texts(&soon(app.stop()).await),
        ["payload 'p' panicked: boom"]
    );
}

/// Says when it is dropped, and panics then if it is wicked.
struct Told {
    name: &'static str,
    wicked: bool,
    told: Arc<Mutex<Vec<&'static str>>>,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.told.lock().unwrap().push(self.name);
        assert!(!self.wicked, "boom {}", self.name);
    }
}

/// Each has a type of its own, for the state.
struct Is<const N: usize>(#[expect(dead_code, reason = "for its drop")] Told);

#[derive(Default)]
struct Order(Arc<Mutex<Vec<&'static str>>>);

impl Order {
    fn told(&self, name: &'static str, wicked: bool) -> Told {
        let told = Arc::clone(&self.0);
        Told { name, wicked, told }
    }

    fn so_far(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }

    /// An app with such a service, and such a value as its state.
    fn app(&self, builder: AppBuilder, service: &'static str, state: &'static str) -> App {
        let value = Arc::new(self.told(service, true));
        let answer = service_fn(move |_| {
            let _ = &value;
            async { Ok(Response::new(Body::empty())) }
        });
        builder.state(Is::<0>(self.told(state, true))).build(answer)
    }
}

#[tokio::test(start_paused = true)]
async fn the_states_are_dropped_last_in_first_out_and_each_for_itself() {
    let order = Order::default();
    let builder = App::builder()
        .state(Is::<0>(order.told("first", false)))
        .state(Is::<1>(order.told("second", true)))
        .state(Is::<2>(order.told("third", false)))
        .state(Is::<3>(order.told("fourth", true)));
    let app = start(builder).await;
    assert_eq!(
        texts(&soon(app.stop()).await),
        [
            "dropping what 'app' holds panicked: boom fourth",
            "dropping what 'app' holds panicked: boom second",
        ]
    );
    assert_eq!(order.so_far(), ["fourth", "third", "second", "first"]);
}

#[tokio::test(start_paused = true)]
async fn two_states_of_one_type_are_a_mistake_and_both_are_dropped() {
    let order = Order::default();
    let builder = App::builder()
        .state(Is::<0>(order.told("first", true)))
        .state(Is::<0>(order.told("second", true)));
    let failed = start_fails(builder).await;
    assert!(failed.to_string().contains("was registered twice"));
    assert_eq!(
        texts(failed.failure().unwinding()),
        [
            "dropping what 'app' holds panicked: boom second",
            "dropping what 'app' holds panicked: boom first",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn each_mounted_app_is_dropped_for_itself_the_services_first() {
    let order = Order::default();
    let c = order.app(App::builder(), "service of c", "state of c");
    let b = order.app(App::builder().mount("/c", c), "service of b", "state of b");
    let a = order.app(App::builder(), "service of a", "state of a");
    let builder = App::builder().mount("/a", a).mount("/b", b);
    let outer = order.app(builder, "own service", "own state");
    let app = soon(TestApp::start(outer)).await.unwrap();
    for path in ["/", "/a", "/b", "/b/c"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        soon(app.call(request)).await.unwrap();
    }
    let what = [
        ("/b/c: app", "service of c"),
        ("/b: app", "service of b"),
        ("/a: app", "service of a"),
        ("app", "own service"),
        ("/b/c: app", "state of c"),
        ("/b: app", "state of b"),
        ("/a: app", "state of a"),
        ("app", "own state"),
    ];
    let errors =
        what.map(|(app, value)| format!("dropping what '{app}' holds panicked: boom {value}"));
    assert_eq!(texts(&soon(app.stop()).await), errors);
    assert_eq!(order.so_far(), what.map(|(_, value)| value));
}

/// A request that was not waited for, or a task that somebody has let go.
#[tokio::test(start_paused = true)]
async fn states_that_somebody_still_has_are_dropped_with_him_and_each_for_itself() {
    let order = Order::default();
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let keeper = service_fn(move |request: Request<Body>| {
        *keep.lock().unwrap() = request.extensions().get::<State>().cloned();
        async { Ok(Response::new(Body::empty())) }
    });
    let app = App::builder()
        .state(Is::<0>(order.told("first", true)))
        .state(Is::<1>(order.told("second", true)))
        .build(keeper);
    let app = soon(TestApp::start(app)).await.unwrap();
    soon(app.call(request())).await.unwrap();
    assert!(soon(app.stop()).await.is_empty());
    assert!(order.so_far().is_empty());
    drop(kept.lock().unwrap().take());
    assert_eq!(order.so_far(), ["second", "first"]);
}

#[test]
fn states_of_an_app_that_was_never_started_are_dropped_each_for_itself() {
    let order = Order::default();
    let builder = App::builder()
        .state(Is::<0>(order.told("first", true)))
        .state(Is::<1>(order.told("second", true)));
    drop(build(builder));
    assert_eq!(order.so_far(), ["second", "first"]);
}
