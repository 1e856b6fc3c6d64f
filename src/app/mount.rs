//! Requests below a path, and the app that is mounted there.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{Request, Uri};

use super::service::{Answer, Erased, Service};
use crate::body::Body;

/// What a request to a [mounted](crate::AppBuilder::mount) app carries as an extension: what its own URI does not
/// say any more.
///
/// An axum router notes its `OriginalUri` itself, when it gets the request: in a mounted app that is the URI without
/// the path of the mount. A link or a redirect to the app's own pages begins with [`path`](Self::path):
///
/// ```
/// use axum::{Extension, Router, response::Redirect, routing::get};
/// use payload::Mounted;
///
/// async fn logout(Extension(mounted): Extension<Mounted>) -> Redirect {
///     Redirect::to(&format!("{}/login", mounted.path()))
/// }
///
/// let admin = payload::App::builder().build(Router::new().route("/logout", get(logout)));
/// let app = payload::App::builder().mount("/admin", admin).build(Router::new());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    path: Arc<str>,
    original: Uri,
}

impl Mounted {
    /// Where this app is mounted, from the outermost app: `/admin`, or `/admin/metrics` for an app at `/metrics` in
    /// that one.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The request's URI as the client sent it.
    pub fn original_uri(&self) -> &Uri {
        &self.original
    }
}

/// An app's service, and where it is mounted.
pub(super) struct Mount {
    pub(super) prefix: Prefix,
    pub(super) service: Service,
}

/// A path that others are below: `/admin`.
#[derive(Debug)]
pub(super) struct Prefix(Arc<str>);

impl Prefix {
    /// # Errors
    /// Nothing could be below it, or nobody could tell what is.
    pub(super) fn new(path: String) -> Result<Self, String> {
        let mut segments = path.split('/').skip(1);
        let why = if !path.starts_with('/') {
            "a path begins with a slash"
        } else if path == "/" {
            "every path is below it, so mount nothing and build the app itself there"
        } else if path.ends_with('/') {
            "leave out the slash at its end"
        } else if path.contains(['{', '}', '*']) {
            "it is compared as it is, and cannot have parameters"
        } else if path.contains(['?', '#']) {
            "a query or a fragment is no part of a path"
        } else if segments.any(|segment| matches!(segment, "" | "." | "..")) {
            "clients and proxies resolve empty segments and dots, each in its own way"
        } else if path.parse::<PathAndQuery>().is_err() {
            "percent-encode what a URI cannot contain"
        } else {
            return Ok(Self(path.into()));
        };
        Err(format!("no app can be mounted at '{path}': {why}"))
    }

    /// What is behind it in a path below it, with the slash; empty for the prefix itself.
    fn rest<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(&*self.0)
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Takes it out of the request's URI, and notes it.
    fn take_from(&self, request: &mut Request<Body>) {
        let Some(below) = self.below(request.uri()) else {
            return;
        };
        let original = std::mem::replace(request.uri_mut(), below);
        let extensions = request.extensions_mut();
        let mounted = match extensions.remove::<Mounted>() {
            None => Mounted {
                path: Arc::clone(&self.0),
                original,
            },
            Some(outer) => Mounted {
                path: format!("{}{}", outer.path, self.0).into(),
                ..outer
            },
        };
        extensions.insert(mounted);
    }

    fn below(&self, uri: &Uri) -> Option<Uri> {
        let rest = self.rest(uri.path())?;
        let slash = if rest.is_empty() { "/" } else { "" };
        let below = match uri.query() {
            None => format!("{slash}{rest}"),
            Some(query) => format!("{slash}{rest}?{query}"),
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(below).ok()?);
        Uri::from_parts(parts).ok()
    }
}

/// A service, and those that are mounted in it.
pub(super) struct Mounts {
    own: Service,
    /// The longest path first.
    mounts: Box<[Mount]>,
}

impl Mounts {
    pub(super) fn new(own: Service, mut mounts: Vec<Mount>) -> Self {
        mounts.sort_by_key(|mount| Reverse(mount.prefix.0.len()));
        Self {
            own,
            mounts: mounts.into(),
        }
    }
}

impl Erased for Mounts {
    fn call(&self, mut request: Request<Body>) -> Answer {
        let path = request.uri().path();
        let mut mounts = self.mounts.iter();
        match mounts.find(|mount| mount.prefix.rest(path).is_some()) {
            Some(mount) => {
                mount.prefix.take_from(&mut request);
                mount.service.call(request)
            }
            None => self.own.call(request),
        }
    }
}

/// The complaints about paths that are there more than once: nobody could say which app answers.
pub(super) fn twice<'a>(paths: impl Iterator<Item = &'a str>) -> impl Iterator<Item = String> {
    let mut seen = HashSet::new();
    paths
        .filter(move |path| !seen.insert(*path))
        .map(|path| format!("two apps are mounted at '{path}': give each a path of its own"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(path: &str) -> Prefix {
        Prefix::new(path.to_owned()).unwrap()
    }

    #[test]
    fn a_path_that_cannot_be_is_refused_with_the_reason() {
        for (path, why) in [
            ("", "begins with a slash"),
            ("admin", "begins with a slash"),
            ("http://x/admin", "begins with a slash"),
            ("/", "build the app itself there"),
            ("/admin/", "the slash at its end"),
            ("/a//b", "empty segments"),
            ("/a/../b", "dots"),
            ("/{tenant}", "parameters"),
            ("/files/*", "parameters"),
            ("/a?b", "a query"),
            ("/a b", "percent-encode"),
        ] {
            let fault = Prefix::new(path.to_owned()).unwrap_err();
            assert!(fault.contains(why), "{fault}");
            assert!(fault.contains(&format!("'{path}'")), "{fault}");
        }
        for path in ["/admin", "/a/b", "/caf%C3%A9", "/.well-known/x", "/a.b"] {
            prefix(path);
        }
    }

    #[test]
    fn what_is_below_a_path_is_told_by_whole_segments_and_byte_by_byte() {
        let admin = prefix("/admin");
        for (path, rest) in [
            ("/admin", Some("")),
            ("/admin/", Some("/")),
            ("/admin/users", Some("/users")),
            ("/admin//users", Some("//users")),
            ("/admin/%2e%2e", Some("/%2e%2e")),
            ("/adminx", None),
            ("/administrator/x", None),
            ("/Admin", None),
            ("/%61dmin", None),
            ("//admin", None),
            ("/", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(admin.rest(path), rest, "{path}");
        }
    }

    #[test]
    fn the_rest_of_the_uri_stays_as_it_is() {
        let below = |uri: &str| {
            let uri = prefix("/admin").below(&uri.parse().unwrap());
            uri.unwrap().to_string()
        };
        assert_eq!(below("/admin"), "/");
        assert_eq!(below("/admin?a=b&c"), "/?a=b&c");
        assert_eq!(below("/admin/?a"), "/?a");
        assert_eq!(below("/admin/x%2Fy/?q=/admin"), "/x%2Fy/?q=/admin");
        assert_eq!(below("/admin//x"), "//x");
        assert_eq!(below("http://h:1/admin/x?y"), "http://h:1/x?y");
        assert_eq!(below("http://h:1/admin"), "http://h:1/");
    }
}
