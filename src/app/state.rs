//! Typed state: one value of each type, shared by everything in one app.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The values that an app registered with [`AppBuilder::state`](crate::AppBuilder::state), by their type.
///
/// Steps and payloads reach it through their context. A request carries it as an extension when the app
/// registered any state at all, so an axum handler takes `Extension<payload::State>`:
///
/// ```
/// use axum::{Extension, Router, routing::get};
///
/// struct Greeting(String);
///
/// async fn hello(Extension(state): Extension<payload::State>) -> String {
///     state.get::<Greeting>().map(|greeting| greeting.0.clone()).unwrap_or_default()
/// }
///
/// let app = payload::App::builder()
///     .state(Greeting("good morning".into()))
///     .build(Router::new().route("/", get(hello)));
/// ```
#[derive(Clone, Default)]
pub struct State(Arc<Values>);

type Values = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

impl State {
    pub(super) fn new(values: Values) -> Self {
        Self(Arc::new(values))
    }

    /// The value of type `T`.
    ///
    /// # Errors
    /// No value of exactly this type was registered; the error names the type. Mind that a registered
    /// `Arc<T>` is found as `Arc<T>`, not as `T`.
    pub fn get<T: Send + Sync + 'static>(&self) -> Result<Arc<T>, MissingState> {
        self.0
            .get(&TypeId::of::<T>())
            .and_then(|value| Arc::clone(value).downcast().ok())
            .ok_or_else(|| MissingState {
                wanted: type_name::<T>(),
                is_in_arc: self.0.contains_key(&TypeId::of::<Arc<T>>()),
            })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("values", &self.0.len())
            .finish()
    }
}

/// State was asked for that the app did not register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingState {
    wanted: &'static str,
    /// An `Arc` of it was.
    is_in_arc: bool,
}

impl fmt::Display for MissingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = self.wanted;
        write!(f, "no state of type {wanted} was registered")?;
        if self.is_in_arc {
            write!(
                f,
                ", but an Arc<{wanted}>: give AppBuilder::state the value without the Arc"
            )
        } else {
            f.write_str(": give it to AppBuilder::state")
        }
    }
}

impl std::error::Error for MissingState {}
