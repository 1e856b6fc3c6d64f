//! Typed state: one value of each type, shared by everything in one app.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::iter::from_fn;
use std::sync::Arc;

use super::act::catch;

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

/// In the order of their registration. They are dropped in the reverse order, and a destructor that panics costs no
/// other.
#[derive(Default)]
pub(super) struct Values(Vec<(TypeId, Value)>);

pub(super) type Value = Arc<dyn Any + Send + Sync>;

impl Values {
    /// Whether it is the first one of its type.
    pub(super) fn add<T: Send + Sync + 'static>(&mut self, value: T) -> bool {
        let is_first = self.get(TypeId::of::<T>()).is_none();
        self.0.push((TypeId::of::<T>(), Arc::new(value)));
        is_first
    }

    fn pop(&mut self) -> Option<Value> {
        self.0.pop().map(|(_, value)| value)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// There are few.
    fn get(&self, wanted: TypeId) -> Option<&Value> {
        let found = self.0.iter().find(|(id, _)| *id == wanted);
        found.map(|(_, value)| value)
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        while let Some(value) = self.pop() {
            // The panic hook has reported it, and nobody is here to tell.
            let _ = catch(|| drop(value));
        }
    }
}

impl State {
    pub(super) fn new(values: Values) -> Self {
        Self(Arc::new(values))
    }

    /// The values, the last one first, to be dropped one by one. None, as long as somebody else has them too: then they
    /// are dropped with the last one who has.
    pub(super) fn into_values(self) -> impl Iterator<Item = Value> {
        let mut values = Arc::into_inner(self.0);
        from_fn(move || values.as_mut()?.pop())
    }

    /// The value of type `T`.
    ///
    /// # Errors
    /// No value of exactly this type was registered; the error names the type. Mind that a registered
    /// `Arc<T>` is found as `Arc<T>`, not as `T`.
    pub fn get<T: Send + Sync + 'static>(&self) -> Result<Arc<T>, MissingState> {
        self.0
            .get(TypeId::of::<T>())
            .and_then(|value| Arc::clone(value).downcast().ok())
            .ok_or_else(|| MissingState {
                wanted: type_name::<T>(),
                is_in_arc: self.0.get(TypeId::of::<Arc<T>>()).is_some(),
            })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 0
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
