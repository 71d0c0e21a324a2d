//! Tests of the binary: help, configuration, exit codes, commands.

mod commands;
mod configuration;
mod doctor;
mod help;
mod reconcile;
mod rollbook;
mod servers;
mod shared_port;
mod sharing;
mod starting;
mod systemd;
mod tokens;
mod top;
