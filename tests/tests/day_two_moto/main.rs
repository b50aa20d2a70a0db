//! What an operator does with an account and its machines, with moto in AWS's place and boto3 as the other pair of eyes.
//!
//! moto evaluates no policy: refusals are answers of a stand-in before it (`refusing.py`), and not an AWS result.

mod desk;
mod doctor;
mod doctor_bucket;
mod kubeconfig;
mod machines;
