//! Sees which keys of a table the author's type passes over: a key that nothing takes is a mistake, mostly of spelling.
//!
//! [`Watched`] stands between the type and TOML's own deserializer, and goes along with it over the same values. It
//! changes nothing of what the type gets. A key is unknown where a struct says which fields it has, has none of that
//! name, and asks for the value to be passed over. Who takes any key, such as a map or [`toml::Value`], is asked nothing.
//! So is a type that reads into a buffer first, by `flatten`, `tag` or `untagged`: what that drops nobody is told.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeString, DeValue, ValueDeserializer};

type Node<'a> = Spanned<DeValue<'a>>;
type Fields = &'static [&'static str];

/// A key that no field has taken.
#[derive(Debug)]
pub(super) struct Unknown {
    /// Where the key stands.
    pub(super) span: Range<usize>,
    pub(super) name: String,
    /// The fields that there are.
    pub(super) known: Fields,
}

/// Reads the author's type, and notes what that passes over. There may be something even if the type cannot be read.
pub(super) fn read<'a, S: Deserialize<'a>>(
    node: &Node<'a>,
) -> (Result<S, toml::de::Error>, Vec<Unknown>) {
    let unknown = RefCell::default();
    let watched = Watched {
        inner: ValueDeserializer::from(node.clone()),
        at: At {
            node,
            field: None,
            unknown: &unknown,
        },
    };
    let read = S::deserialize(watched);
    (read, unknown.into_inner())
}

/// Where the reading is.
#[derive(Clone, Copy)]
struct At<'n, 'a> {
    node: &'n Node<'a>,
    /// Its key, and the fields of the struct that it would be one of.
    field: Option<(&'n Spanned<DeString<'a>>, Fields)>,
    unknown: &'n RefCell<Vec<Unknown>>,
}

/// A deserializer, a visitor or an access of somebody else, at this place.
struct Watched<'n, 'a, T> {
    inner: T,
    at: At<'n, 'a>,
}

/// A visitor of a value. With the fields that it knows, if that is a struct.
struct Visit<'n, 'a, V> {
    visitor: V,
    fields: Option<Fields>,
    at: At<'n, 'a>,
}

/// The values in a table or an array, in step with the other access.
struct Inside<'n, A, I> {
    inner: A,
    nodes: I,
    fields: Option<Fields>,
    unknown: &'n RefCell<Vec<Unknown>>,
}

impl<'n, 'a> At<'n, 'a> {
    fn visit<V>(self, visitor: V, fields: Option<Fields>) -> Visit<'n, 'a, V> {
        Visit {
            visitor,
            fields,
            at: self,
        }
    }

    fn pass_over(&self) {
        if let Some((key, known)) = self.field
            && !known.contains(&key.get_ref().as_ref())
        {
            self.unknown.borrow_mut().push(Unknown {
                span: key.span(),
                name: key.get_ref().to_string(),
                known,
            });
        }
    }

    fn seed<T>(
        node: &'n Node<'a>,
        unknown: &'n RefCell<Vec<Unknown>>,
        inner: T,
    ) -> Watched<'n, 'a, T> {
        let field = None;
        Watched {
            inner,
            at: Self {
                node,
                field,
                unknown,
            },
        }
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Watched<'_, '_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(self.at.visit(visitor, None))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(self.at.visit(visitor, None))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.at.visit(visitor, None);
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: Fields,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        // TOML's own types, which are no tables of the file: a date, a value with its place.
        if name.starts_with("$__") {
            return self.inner.deserialize_struct(name, fields, visitor);
        }
        let visitor = self.at.visit(visitor, Some(fields));
        self.inner.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: Fields,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.at.visit(visitor, None);
        self.inner.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.at.pass_over();
        self.inner.deserialize_ignored_any(visitor)
    }

    // TOML's deserializer goes by the value, whatever it is asked for.
    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier
    }
}

/// Values without others in them.
macro_rules! plainly {
    ($($method:ident($type:ty))*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Visit<'_, '_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    plainly! {
        visit_bool(bool) visit_i64(i64) visit_i128(i128) visit_u64(u64) visit_u128(u128) visit_f64(f64)
        visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let at = self.at;
        self.visitor.visit_some(Watched { inner, at })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let at = self.at;
        self.visitor.visit_newtype_struct(Watched { inner, at })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let (at, fields) = (self.at, None);
        match at.node.get_ref() {
            DeValue::Array(items) => self.visitor.visit_seq(Inside {
                inner,
                nodes: items.iter(),
                fields,
                unknown: at.unknown,
            }),
            _ => self.visitor.visit_seq(inner),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let (at, fields) = (self.at, self.fields);
        match at.node.get_ref() {
            DeValue::Table(table) => self.visitor.visit_map(Inside {
                inner,
                nodes: table.iter(),
                fields,
                unknown: at.unknown,
            }),
            _ => self.visitor.visit_map(inner),
        }
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let at = self.at;
        match at.node.get_ref() {
            DeValue::Table(table) => match table.iter().next() {
                // The one entry: a variant and what is in it.
                Some((_, node)) => {
                    let at = At {
                        node,
                        field: None,
                        ..at
                    };
                    self.visitor.visit_enum(Watched { inner, at })
                }
                None => self.visitor.visit_enum(inner),
            },
            _ => self.visitor.visit_enum(inner),
        }
    }
}

impl<'n, 'a: 'n, 'de, A, I> SeqAccess<'de> for Inside<'n, A, I>
where
    A: SeqAccess<'de>,
    I: Iterator<Item = &'n Node<'a>>,
{
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        match self.nodes.next() {
            Some(node) => {
                let seed = At::seed(node, self.unknown, seed);
                self.inner.next_element_seed(seed)
            }
            None => self.inner.next_element_seed(seed),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

type Entry<'n, 'a> = (&'n Spanned<DeString<'a>>, &'n Node<'a>);

impl<'n, 'a: 'n, 'de, A, I> MapAccess<'de> for Inside<'n, A, I>
where
    A: MapAccess<'de>,
    I: Iterator<Item = Entry<'n, 'a>>,
{
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        self.inner.next_key_seed(seed)
    }

    /// Each value comes once, behind its key.
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        match self.nodes.next() {
            Some((key, node)) => {
                let mut seed = At::seed(node, self.unknown, seed);
                seed.at.field = self.fields.map(|fields| (key, fields));
                self.inner.next_value_seed(seed)
            }
            None => self.inner.next_value_seed(seed),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'n, 'a, 'de, A: EnumAccess<'de>> EnumAccess<'de> for Watched<'n, 'a, A> {
    type Error = A::Error;
    type Variant = Watched<'n, 'a, A::Variant>;

    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Self::Variant), A::Error> {
        let at = self.at;
        let (variant, inner) = self.inner.variant_seed(seed)?;
        Ok((variant, Watched { inner, at }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Watched<'_, '_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        let (inner, at) = (seed, self.at);
        self.inner.newtype_variant_seed(Watched { inner, at })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(len, self.at.visit(visitor, None))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: Fields,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let visitor = self.at.visit(visitor, Some(fields));
        self.inner.struct_variant(fields, visitor)
    }
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Watched<'_, '_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T::Value, D::Error> {
        let at = self.at;
        self.inner.deserialize(Watched { inner, at })
    }
}

#[cfg(test)]
mod tests;
