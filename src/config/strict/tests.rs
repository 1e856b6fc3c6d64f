use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::de::DeTable;

use super::*;

/// The unknown keys, and where each stands in the text.
fn unknown<S: for<'de> Deserialize<'de>>(text: &str) -> (Option<S>, Vec<String>) {
    let root = DeTable::parse(text).unwrap();
    let span = root.span();
    let root = Spanned::new(span, DeValue::Table(root.into_inner()));
    let (read, unknown) = read(&root);
    let told = unknown.iter().map(|key| {
        assert_eq!(&text[key.span.clone()], key.name);
        format!("{} at {}", key.name, key.span.start)
    });
    (read.ok(), told.collect())
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Leaf {
    #[serde(alias = "old")]
    a: u8,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Pair(Leaf, u8);

#[derive(Debug, PartialEq, Deserialize)]
struct Around(Leaf);

#[derive(Deserialize)]
struct Required {
    #[expect(dead_code, reason = "only read")]
    xx: u8,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Choice {
    Plain,
    One(Leaf),
    Two(Leaf, Leaf),
    Named { leaf: Leaf },
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Everything {
    leaf: Leaf,
    maybe: Option<Leaf>,
    list: Vec<Leaf>,
    pair: Option<Pair>,
    around: Option<Around>,
    map: BTreeMap<char, Leaf>,
    choices: Vec<Choice>,
    text: String,
    number: f64,
    truth: bool,
    date: Option<toml::value::Datetime>,
    place: Option<Spanned<u8>>,
}

#[test]
fn a_key_without_a_field_is_found_wherever_it_stands() {
    let place = |text: &str, key: &str| vec![format!("{key} at {}", text.find(key).unwrap())];
    for text in [
        "zz = 1",
        "zz = { a = 1, b = [{ c = 2 }] }",
        "leaf = { zz = 1 }",
        "leaf = { a = 1, zz = 1 }",
        "maybe = { zz = 1 }",
        "list = [{ a = 1 }, { a = 1, zz = 1 }]",
        "[[list]]\na = 1\n[[list]]\nzz = 1\na = 2",
        "pair = [{ zz = 1 }, 2]",
        "around = { a = 1, zz = 1 }",
        "[map.x]\nzz = 1",
        "choices = [{ one = { zz = 1 } }, 'plain']",
        "choices = ['plain', { two = [{}, { zz = 1 }] }]",
        "choices = [{ named = { leaf = { zz = 1 } } }]",
    ] {
        let (read, unknown) = unknown::<Everything>(text);
        assert!(read.is_some(), "{text}");
        assert_eq!(unknown, place(text, "zz"), "{text}");
    }
}

#[test]
fn what_is_known_is_read_as_without_it() {
    let text = "leaf.old = 1\nmaybe = { a = 2 }\nlist = [{ a = 3 }, {}]\npair = [{ a = 4 }, 5]\naround = { a = 6 }\n\
                map = { x = { a = 7 }, 'é' = {} }\ntext = 't'\nnumber = 1.5\ntruth = true\ndate = 2026-01-02\nplace = 8\n\
                choices = ['plain', { one = { a = 9 } }, { two = [{}, {}] }, { named = { leaf = {} } }]";
    let (read, unknown) = unknown::<Everything>(text);
    assert_eq!(unknown, Vec::<String>::new());
    assert_eq!(read.unwrap(), toml::from_str(text).unwrap());
}

#[test]
fn who_takes_any_key_is_asked_nothing() {
    #[derive(Deserialize)]
    struct Flat {
        #[expect(dead_code, reason = "only read")]
        a: u8,
        #[serde(flatten)]
        rest: BTreeMap<String, toml::Value>,
    }
    let text = "a = 1\nzz = { yy = [{ xx = 1 }] }\n1 = 2";
    let (read, none) = unknown::<Flat>(text);
    assert_eq!((read.unwrap().rest.len(), none), (2, vec![]));
    assert_eq!(unknown::<toml::Table>(text).1, Vec::<String>::new());
    assert_eq!(unknown::<toml::Value>(text).1, Vec::<String>::new());
    assert_eq!(unknown::<IgnoredAny>(text).1, Vec::<String>::new());

    #[derive(Deserialize)]
    struct Loose {
        #[expect(dead_code, reason = "only read")]
        zz: IgnoredAny,
        #[expect(dead_code, reason = "only read")]
        any: BTreeMap<String, IgnoredAny>,
    }
    let (read, none) = unknown::<Loose>("zz = { a = 1 }\nany = { b = [{ c = 1 }] }");
    assert!(read.is_some());
    assert_eq!(none, Vec::<String>::new());
}

/// Those that TOML makes of a text, and that are no text.
#[test]
fn keys_may_be_of_any_type() {
    let (read, none) = unknown::<BTreeMap<u16, BTreeMap<bool, Leaf>>>("80 = { true = {} }");
    assert!(read.is_some());
    assert_eq!(none, Vec::<String>::new());
    let (read, keys) = unknown::<BTreeMap<Spanned<String>, Leaf>>("a = { zz = 1 }");
    let names: BTreeSet<_> = read.unwrap().into_keys().map(Spanned::into_inner).collect();
    assert_eq!(names, BTreeSet::from(["a".to_owned()]));
    assert_eq!(keys, ["zz at 6"]);
}

#[test]
fn a_misspelt_field_that_must_be_there_is_found_although_nothing_can_be_read() {
    let (read, keys) = unknown::<Required>("yy = 1");
    assert!(read.is_none());
    assert_eq!(keys, ["yy at 0"]);
}
