"""The keystore of keyanon: sealed key records, approvals, grants and the audit log. A separate trust domain."""
