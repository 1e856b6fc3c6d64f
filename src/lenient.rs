//! What another program has written, a newer or an older one: a part that makes no sense here is passed over, or stands
//! for what is usual, and the rest is taken.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// For `#[serde(deserialize_with)]`: entries that make no sense are left out.
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

/// The same, with the default in their place: where they stand says what they are about.
///
/// # Errors
/// It is no list.
pub(crate) fn places<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let entries = Vec::<serde_json::Value>::deserialize(deserializer)?;
    let known = entries
        .into_iter()
        .map(|entry| serde_json::from_value(entry).unwrap_or_default());
    Ok(known.collect())
}

/// The same for one value.
///
/// # Errors
/// There is none.
pub(crate) fn value<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}
