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
            .ok_or(MissingState(type_name::<T>()))
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
pub struct MissingState(&'static str);

impl fmt::Display for MissingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0;
        write!(
            f,
            "no state of type {name} was registered: give it to AppBuilder::state"
        )
    }
}

impl std::error::Error for MissingState {}
