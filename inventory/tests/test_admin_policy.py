import pytest

from inventory.middleware import admin_policy

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("path", ["/admin/login/", "/admin/", "/admin/nothing/"])
def test_every_admin_page_carries_the_policy(client, path):
    assert client.get(path)["Content-Security-Policy"] == admin_policy("")


def test_pictures_may_come_from_where_blobs_are(admin_client, settings):
    settings.CAS_PUBLIC_BASE_URL = "https://blobs.example.com:8443/prefix"
    header = admin_client.get("/admin/")["Content-Security-Policy"]
    assert "img-src 'self' data: https://blobs.example.com:8443;" in header
    assert "script-src 'self';" in header


def test_the_api_keeps_its_own(client):
    assert "Content-Security-Policy" not in client.get("/api/types")
