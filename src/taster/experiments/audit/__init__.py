"""Audits: a user's own model and data are looked at, and a recipe is made for them and run."""

from taster.experiments.audit.audit import Audit
from taster.experiments.audit.request import AuditRequest

__all__ = ["Audit", "AuditRequest"]
