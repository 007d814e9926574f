"""Requests that are refused for what they say leave one line each in the log."""

from __future__ import annotations

import logging

import pytest
from django.test import Client
from django.utils.module_loading import import_string

from inventory.log import logging_settings

pytestmark = pytest.mark.django_db


def test_a_host_that_is_not_ours_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    filters = logging_settings("INFO")["loggers"]["django.security.DisallowedHost"]["filters"]
    made = logging_settings("INFO")["filters"][filters[0]]["()"]
    refused = logging.getLogger("django.security.DisallowedHost")
    without_traceback = import_string(made)()
    refused.addFilter(without_traceback)
    try:
        response = Client(HTTP_HOST="evil.example").get("/api/parts")
    finally:
        refused.removeFilter(without_traceback)
    assert response.status_code == 400
    told = [record for record in caplog.records if "evil.example" in record.getMessage()]
    assert [record.exc_info for record in told] == [None]
