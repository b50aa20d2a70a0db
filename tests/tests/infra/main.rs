//! From an empty account to two groups and back, with the real Terraform, its real AWS provider, and moto in AWS's place.
//!
//! What exists is asked of the API (`observe.py`, boto3), not of Terraform. moto evaluates no policy, boots no machine and checks no
//! health; what it answers otherwise than AWS is put right in `src/moto/serve.py`, and said there.

mod adoption;
mod comparable;
mod desk;
mod files;
mod iam;
mod interruptions;
mod life;
mod refusals;
