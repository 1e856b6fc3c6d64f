//! Lists that another program has written, a newer or an older one: an entry that makes no sense here is passed over,
//! and the rest is taken.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// For `#[serde(deserialize_with)]`.
///
/// # Errors
/// It is no list.
pub(crate) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let entries = Vec::<serde_json::Value>::deserialize(deserializer)?;
    let known = entries
        .into_iter()
        .filter_map(|entry| serde_json::from_value(entry).ok());
    Ok(known.collect())
}
