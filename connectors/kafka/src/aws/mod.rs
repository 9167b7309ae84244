//! What AWS asks of who talks to its services: credentials from where a process is given them, and signed requests.
//!
//! Both brokers (Amazon MSK) and schema registry (AWS Glue) are reached with it.

pub mod credentials;
pub mod region;
pub mod sigv4;
