//! Enums with a name for each variant: closed lists of values in metrics, in JSON, in filters and in the store.

#[doc(hidden)]
pub use serde::{Serialize, Serializer};

/// Declares an enum with a name for each variant.
///
/// The enum gets `ALL`, `as_str`, `parse`, and the name as its [`Display`](std::fmt::Display) and in JSON. A variant is declared
/// once, so none can be missing in one of them.
///
/// ```
/// rollbook_core::named! {
///     /// Colour of a light.
///     pub enum Light {
///         /// Stop.
///         Red = "red",
///         /// Go.
///         Green = "green",
///     }
/// }
///
/// assert_eq!(Light::ALL.map(Light::as_str), ["red", "green"]);
/// assert_eq!(Light::parse("green"), Some(Light::Green));
/// assert_eq!(Light::parse("blue"), None);
/// ```
#[macro_export]
macro_rules! named {
    ($(#[$attribute:meta])* pub enum $enum:ident {
        $($(#[$of_variant:meta])* $variant:ident = $name:literal,)+
    }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $enum {
            $($(#[$of_variant])* $variant,)+
        }

        impl $enum {
            /// All variants, in the order of their declaration.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// Returns the name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Returns the variant with this name.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|known| known.as_str() == name)
            }
        }

        impl ::std::fmt::Display for $enum {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::named::Serialize for $enum {
            fn serialize<S: $crate::named::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}
