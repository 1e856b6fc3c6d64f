//! Apps within an app: their lives, and their requests.

use axum::{Extension, Router, extract::OriginalUri, routing::get};
use http::{Method, Request, Response, Version};
use payload::testing::TestApp;
use payload::{App, AppBuilder, Body, Mounted, Payload, PayloadContext, Scope, State};

use crate::{
    SECOND, build, failing, obedient, pair, request, soon, start, start_fails, text, texts,
};

/// Answers every request with its own name, and with all that a request tells of where it came.
fn named(builder: AppBuilder, name: &'static str) -> App {
    builder.build(payload::service_fn(
        move |request: Request<Body>| async move {
            let uri = request.uri();
            let answer = match request.extensions().get::<Mounted>() {
                None => format!("{name} {uri}"),
                Some(at) => format!("{name} {uri}, at {} of {}", at.path(), at.original_uri()),
            };
            Ok(Response::new(Body::from(answer)))
        },
    ))
}

async fn serve(app: App) -> TestApp {
    soon(TestApp::start(app)).await.unwrap()
}

async fn get_of(app: &TestApp, uri: &str) -> String {
    let request = Request::builder().uri(uri).body(Body::empty()).unwrap();
    text(app.call(request).await.unwrap()).await
}

// Lives

#[tokio::test(start_paused = true)]
async fn a_mounted_app_lives_at_its_place_in_the_one_list_and_is_named_with_its_path() {
    let metrics = pair(App::builder(), "export");
    let admin = pair(App::builder(), "pool")
        .on_drain("tell", async |_| Ok(()))
        .mount("/metrics", build(metrics))
        .payload(Payload::new("watch", obedient));
    let parent = pair(App::builder(), "first")
        .mount("/admin", build(admin))
        .teardown("last", async |_| Ok(()));
    let app = start(parent).await;
    let trace = app.trace();
    assert_eq!(
        trace.lines(),
        [
            "app starting",
            "payload '/admin: watch' waiting",
            "startup 'first' begun",
            "startup 'first' done",
            "startup '/admin: pool' begun",
            "startup '/admin: pool' done",
            "startup '/admin/metrics: export' begun",
            "startup '/admin/metrics: export' done",
            "payload '/admin: watch' running",
            "app serving",
        ]
    );
    assert!(soon(app.stop()).await.is_empty());
    assert_eq!(
        trace.lines()[10..],
        [
            "app draining",
            "app stopping",
            "drain '/admin: tell' begun",
            "drain '/admin: tell' done",
            "teardown 'last' begun",
            "teardown 'last' done",
            "payload '/admin: watch' done",
            "teardown '/admin/metrics: export' begun",
            "teardown '/admin/metrics: export' done",
            "teardown '/admin: pool' begun",
            "teardown '/admin: pool' done",
            "teardown 'first' begun",
            "teardown 'first' done",
            "app stopped",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_mounted_app_that_fails_to_start_unwinds_what_the_parent_had_started() {
    let admin = pair(App::builder(), "pool").startup("migrate", async |_| failing());
    let parent = pair(App::builder(), "first")
        .mount("/admin", build(admin))
        .startup("never", async |_| Ok(()));
    let failed = start_fails(parent).await;
    assert_eq!(
        failed.to_string(),
        "startup step '/admin: migrate' failed: it broke"
    );
    assert_eq!(failed.failure().step(), Some("/admin: migrate"));
    let lines = failed.trace().lines();
    assert!(!lines.iter().any(|line| line.contains("never")));
    assert_eq!(
        lines[lines.len() - 5..],
        [
            "teardown '/admin: pool' begun",
            "teardown '/admin: pool' done",
            "teardown 'first' begun",
            "teardown 'first' done",
            "app failed",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_fails_in_a_mounted_teardown_is_named_and_stops_nothing() {
    let admin = App::builder().teardown("pool", async |_| failing());
    let parent = pair(App::builder(), "first").mount("/admin", build(admin));
    let app = start(parent).await;
    let trace = app.trace();
    assert_eq!(
        texts(&soon(app.stop()).await),
        ["teardown step '/admin: pool' failed: it broke"]
    );
    assert!(trace.contains("teardown 'first' done"));
}

#[tokio::test(start_paused = true)]
async fn each_app_has_its_own_state() {
    async fn number(Extension(state): Extension<State>) -> String {
        state.get::<u8>().unwrap().to_string()
    }
    let with = |builder: AppBuilder, number: u8| {
        let check = async move |is: std::sync::Arc<u8>| match *is == number {
            true => Ok(()),
            false => Err("that is another app's".into()),
        };
        builder
            .state(number)
            .startup("up", async move |step| check(step.state()?).await)
            .teardown("down", async move |step| check(step.state()?).await)
            .on_drain("drain", async move |step| check(step.state()?).await)
            .payload(Payload::new("p", async move |context: PayloadContext| {
                check(context.state()?).await?;
                obedient(context).await
            }))
    };
    let routes = || Router::new().route("/", get(number));
    let inner = with(App::builder(), 3).build(routes());
    let middle = with(App::builder(), 2)
        .mount("/inner", inner)
        .build(routes());
    let none = App::builder().build(Router::new().route(
        "/",
        get(async |state: Option<Extension<State>>| {
            assert!(state.is_none());
        }),
    ));
    let app = with(App::builder(), 1)
        .mount("/middle", middle)
        .mount("/none", none)
        .build(routes());
    let app = serve(app).await;
    assert_eq!(get_of(&app, "/").await, "1");
    assert_eq!(get_of(&app, "/middle").await, "2");
    assert_eq!(get_of(&app, "/middle/inner/").await, "3");
    assert_eq!(get_of(&app, "/none").await, "");
    let (trace, mut failed) = (app.trace(), std::pin::pin!(app.failed()));
    tokio::select! {
        failure = &mut failed => panic!("{failure}"),
        () = tokio::time::sleep(SECOND) => {}
    }
    assert!(soon(app.stop()).await.is_empty(), "{trace}");
}

#[tokio::test(start_paused = true)]
async fn payloads_of_the_same_name_are_two_when_their_apps_are() {
    let leased = || Payload::new("jobs", obedient).scope(Scope::Service);
    let admin = App::builder().payload(leased());
    let app = start(
        App::builder()
            .payload(leased())
            .mount("/admin", build(admin)),
    )
    .await;
    let trace = app.trace();
    while !(trace.contains("payload 'jobs' running")
        && trace.contains("payload '/admin: jobs' running"))
    {
        soon(tokio::task::yield_now()).await;
    }
    assert!(soon(app.stop()).await.is_empty());
    assert!(trace.contains("payload '/admin: jobs' released"));
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_cannot_be_starts_nothing_and_says_why() {
    let twice = App::builder()
        .mount(
            "/admin",
            build(App::builder().mount("/x", build(App::builder()))),
        )
        .mount("/admin/x", build(App::builder()));
    let wrong = App::builder().mount("/admin/", build(App::builder()));
    let inside = App::builder().state(1_u8).state(2_u8);
    let inside = App::builder().mount("/admin", build(inside));
    let limit = App::builder()
        .mount("/admin", build(pair(App::builder(), "pool")))
        .timeout(SECOND);
    for (builder, fault) in [
        (
            twice,
            "two apps are mounted at '/admin/x': give each a path of its own",
        ),
        (
            wrong,
            "no app can be mounted at '/admin/': leave out the slash at its end",
        ),
        (
            inside,
            "/admin: state of type u8 was registered twice: register one value of each type",
        ),
        (
            limit,
            "timeout(1s) follows a mounted app and limits nothing: put it behind the step in that app",
        ),
    ] {
        let failed = start_fails(builder).await;
        assert_eq!(failed.to_string(), format!("the app is not valid: {fault}"));
        assert_eq!(failed.trace().lines().len(), 3);
    }
}

// Requests

#[tokio::test(start_paused = true)]
async fn a_request_goes_to_the_longest_path_that_it_is_below() {
    let inner = named(App::builder(), "inner");
    let admin = named(App::builder().mount("/inner", inner), "admin");
    let metrics = named(App::builder(), "metrics");
    let parent = App::builder()
        .mount("/admin", admin)
        .mount("/admin/metrics", metrics);
    let app = serve(named(parent, "own")).await;
    for (uri, answer) in [
        ("/", "own /"),
        ("/adminx", "own /adminx"),
        ("/%61dmin", "own /%61dmin"),
        ("/x/../admin", "own /x/../admin"),
        ("/admin", "admin /, at /admin of /admin"),
        ("/admin/", "admin /, at /admin of /admin/"),
        ("/admin?a=b", "admin /?a=b, at /admin of /admin?a=b"),
        ("/admin//x/?y", "admin //x/?y, at /admin of /admin//x/?y"),
        ("/admin/metric", "admin /metric, at /admin of /admin/metric"),
        (
            "/admin/metrics/a",
            "metrics /a, at /admin/metrics of /admin/metrics/a",
        ),
        (
            "/admin/inner/a",
            "inner /a, at /admin/inner of /admin/inner/a",
        ),
        (
            "http://h:1/admin/a",
            "admin http://h:1/a, at /admin of http://h:1/admin/a",
        ),
    ] {
        assert_eq!(get_of(&app, uri).await, answer, "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_no_path_goes_to_the_apps_own_service() {
    let parent = App::builder().mount("/admin", named(App::builder(), "admin"));
    let app = serve(named(parent, "own")).await;
    for (method, uri, answer) in [
        (Method::OPTIONS, "*", "own *"),
        (Method::CONNECT, "admin:443", "own admin:443"),
    ] {
        let request = Request::builder().method(method).uri(uri);
        let request = request.body(Body::empty()).unwrap();
        assert_eq!(text(app.call(request).await.unwrap()).await, answer);
    }
}

#[tokio::test(start_paused = true)]
async fn everything_else_of_a_request_arrives_as_it_was() {
    let service = payload::service_fn(async |request: Request<Body>| {
        assert_eq!(request.method(), Method::PUT);
        assert_eq!(request.version(), Version::HTTP_10);
        assert_eq!(request.headers()["x"], "y");
        assert_eq!(request.extensions().get::<u8>(), Some(&7));
        Ok(Response::new(request.into_body()))
    });
    let parent = App::builder().mount("/admin", App::builder().build(service));
    let app = serve(build(parent)).await;
    let request = Request::put("/admin/x")
        .version(Version::HTTP_10)
        .header("x", "y")
        .extension(7_u8)
        .body(Body::from("body"))
        .unwrap();
    assert_eq!(text(app.call(request).await.unwrap()).await, "body");
}

#[tokio::test(start_paused = true)]
async fn an_axum_router_is_mounted_as_it_is_and_what_is_not_there_is_its_own_404() {
    let routes = Router::new()
        .route(
            "/users/{id}",
            get(
                async |OriginalUri(uri): OriginalUri,
                       axum::extract::Path(id): axum::extract::Path<u32>,
                       Extension(mounted): Extension<Mounted>| {
                    format!("{id} {uri} {}", mounted.original_uri())
                },
            ),
        )
        .fallback(async || "nothing in admin");
    let parent = App::builder().mount("/admin", App::builder().build(routes));
    let app = serve(parent.build(Router::new().fallback(async || "nothing at all"))).await;
    assert_eq!(
        get_of(&app, "/admin/users/7").await,
        "7 /users/7 /admin/users/7"
    );
    assert_eq!(get_of(&app, "/admin/none").await, "nothing in admin");
    assert_eq!(get_of(&app, "/none").await, "nothing at all");
}

#[tokio::test(start_paused = true)]
async fn an_app_without_mounts_adds_nothing_to_a_request() {
    let app = serve(named(App::builder(), "own")).await;
    assert_eq!(text(app.call(request()).await.unwrap()).await, "own /");
}
