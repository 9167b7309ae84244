//! Where the lake lies: a folder on local disk or a prefix of an S3 bucket, behind `object_store`.

pub mod errors;
pub mod folder_name;
pub mod lake_store;
pub mod local_disk;
pub mod location;
pub mod operations;
pub mod redirected;
