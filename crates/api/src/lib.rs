//! What others see of Gangway: the gRPC contract, and its conversions to core's types.
//!
//! Everything that comes in through the door is parsed here into types that cannot be wrong; this
//! room decides nothing and knows neither Kubernetes nor slurmrestd.

/// Messages and services generated from `proto/gangway/v1` by `cargo xtask codegen`.
#[expect(missing_docs, reason = "generated; the documentation is in the .proto")]
#[allow(
    clippy::all,
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated"
)]
#[rustfmt::skip]
pub mod v1 {
    include!("generated/gangway.v1.rs");
}

mod convert;

pub use convert::BadMessage;
