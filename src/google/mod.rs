//! Google's HTTP APIs: where an instance is, how it wants to be spoken to, and its certificates.
//!
//! [`name`] and [`describe`] are pure: a resource name, and what the API's JSON says about it.
//! [`api`] asks the two admin APIs through [`http`], the one HTTP client of the program, which the
//! sources of credentials use as well; [`lookup`] keeps their answers. Invariant: nothing here is on the way of a command, and no
//! error text holds a token or the body of a reply.

pub mod api;
pub mod describe;
pub mod http;
pub mod lookup;
pub mod name;
