//! The built-in app, copied by an author: where its sources say `crate`, they mean what `payload` gives to everybody.
//! That they compile here is the test.

use payload::*;

#[path = "../../src/vitals/mod.rs"]
pub mod vitals;
