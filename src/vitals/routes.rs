//! What is answered to which request.

use std::sync::Arc;

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;

use super::page;
use super::ring::{Place, Placed, Ring};
use super::state::Vitals;
use super::stream::Stream;
use crate::{Body, Mounted, Result, State};

/// The HTTP service.
pub(super) async fn answer(request: Request<Body>) -> Result<Response<Body>> {
    let state = request.extensions().get::<State>();
    let vitals = state.cloned().unwrap_or_default().get::<Vitals>()?;
    Ok(respond(&vitals, &request))
}

pub(super) fn respond(vitals: &Arc<Vitals>, request: &Request<Body>) -> Response<Body> {
    let mut response = response_to(vitals, request);
    set(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(&mut response, header::REFERRER_POLICY, "no-referrer");
    response
}

fn response_to(vitals: &Arc<Vitals>, request: &Request<Body>) -> Response<Body> {
    let Some(route) = Route::of(request.uri().path()) else {
        return text(StatusCode::NOT_FOUND, NOT_FOUND);
    };
    let is_head = request.method() == Method::HEAD;
    if !is_head && request.method() != Method::GET {
        let mut response = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "this can only be read: GET or HEAD\n",
        );
        set(&mut response, header::ALLOW, "GET, HEAD");
        return response;
    }
    let query = request.uri().query().unwrap_or("");
    let response = match route {
        Route::Page => match below_itself(request) {
            Some(place) => redirect(&place),
            None => page(request.headers()),
        },
        Route::Vitals => match Window::parse(query) {
            Ok(window) => json(vitals.history(|ring| window.of(ring))),
            Err(cure) => text(StatusCode::BAD_REQUEST, cure),
        },
        Route::Stream => stream(Stream::new(Arc::clone(vitals))),
        Route::Service => json(serde_json::to_vec(&vitals.status())),
        Route::Events => {
            let recent = vitals.events.recent();
            let events: Vec<_> = recent.iter().map(Arc::as_ref).collect();
            json(serde_json::to_vec(&events))
        }
        Route::Health => {
            let health = vitals.health();
            let status = if health.is_well {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            text(status, health.says + "\n")
        }
    };
    if is_head {
        headers_only(response)
    } else {
        response
    }
}

enum Route {
    Page,
    Vitals,
    Stream,
    Service,
    Events,
    Health,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Route::Page,
            "/api/vitals" => Route::Vitals,
            "/api/vitals/stream" => Route::Stream,
            "/api/service" => Route::Service,
            "/api/events" => Route::Events,
            "/healthz" => Route::Health,
            _ => return None,
        })
    }
}

const NOT_FOUND: &str = "nothing is here; there are /, /api/vitals, /api/vitals/stream, /api/service, /api/events and /healthz\n";

/// Where the app is mounted at `/machine` and its page is asked for there, without a slash: `./machine/`. The page's own
/// addresses are relative, so that they lead to this app behind every path, also one that a proxy has put in front.
fn below_itself(request: &Request<Body>) -> Option<String> {
    let mounted = request.extensions().get::<Mounted>()?;
    let (_, last) = mounted.original_uri().path().rsplit_once('/')?;
    (!last.is_empty()).then(|| format!("./{last}/"))
}

fn redirect(place: &str) -> Response<Body> {
    let mut response = text(StatusCode::PERMANENT_REDIRECT, format!("{place}\n"));
    if let Ok(place) = HeaderValue::from_str(place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

/// Which samples `/api/vitals` is asked for.
#[derive(Debug, PartialEq)]
enum Window {
    All,
    Last(usize),
    /// By the wall clock: where that was set back, some are missing or come twice.
    Since(f64),
    After(Place),
}

impl Window {
    fn parse(query: &str) -> std::result::Result<Self, &'static str> {
        const CURE: &str = "the query is ?last=COUNT, ?after=EPOCH,NUMBER (a sample's place), \
            ?since=TIME (a sample's time in seconds since 1970), or nothing\n";
        match query.split_once('=') {
            None if query.is_empty() => Ok(Window::All),
            Some(("last", count)) => count.parse().map(Window::Last).map_err(|_| CURE),
            Some(("after", place)) => place
                .split_once(',')
                .and_then(|(epoch, number)| {
                    Some(Place {
                        epoch: epoch.parse().ok()?,
                        number: number.parse().ok()?,
                    })
                })
                .map(Window::After)
                .ok_or(CURE),
            Some(("since", time)) => match time.parse() {
                Ok(time) if f64::is_finite(time) => Ok(Window::Since(time)),
                _ => Err(CURE),
            },
            _ => Err(CURE),
        }
    }

    fn of(&self, ring: &Ring) -> Vec<Placed> {
        match *self {
            Window::All => ring.last(usize::MAX),
            Window::Last(count) => ring.last(count),
            Window::Since(time) => ring.since(time),
            Window::After(place) => ring.after(Some(place)),
        }
    }
}

fn page(request: &HeaderMap) -> Response<Body> {
    let etag = page::etag();
    let mut response = if knows(request, &etag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let mut response = Response::new(Body::from(page::HTML));
        set(
            &mut response,
            header::CONTENT_TYPE,
            "text/html; charset=utf-8",
        );
        response
    };
    set(&mut response, header::CONTENT_SECURITY_POLICY, page::POLICY);
    set(&mut response, header::CACHE_CONTROL, "no-cache");
    if let Ok(etag) = HeaderValue::try_from(etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// If-None-Match compares weakly, RFC 9110 section 13.1.2.
fn knows(request: &HeaderMap, etag: &str) -> bool {
    let lists = request.get_all(header::IF_NONE_MATCH).into_iter();
    lists
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|tag| {
            let tag = tag.trim();
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
        })
}

fn stream(stream: Stream) -> Response<Body> {
    let mut response = Response::new(Body::new(stream));
    set(&mut response, header::CONTENT_TYPE, "text/event-stream");
    set(&mut response, header::CACHE_CONTROL, "no-store");
    // nginx holds back a response by default.
    set(
        &mut response,
        HeaderName::from_static("x-accel-buffering"),
        "no",
    );
    response
}

fn json(json: serde_json::Result<Vec<u8>>) -> Response<Body> {
    match json {
        Ok(json) => {
            let mut response = Response::new(Body::from(json));
            set(&mut response, header::CONTENT_TYPE, "application/json");
            set(&mut response, header::CACHE_CONTROL, "no-store");
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    set(
        &mut response,
        header::CONTENT_TYPE,
        "text/plain; charset=utf-8",
    );
    set(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

/// The answer to HEAD: what GET would have said, with the length of what it would have sent.
fn headers_only(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let has_length = parts.status != StatusCode::NOT_MODIFIED;
    if let Some(length) = body.size_hint().exact().filter(|_| has_length) {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Response::from_parts(parts, Body::empty())
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &'static str) {
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
}
