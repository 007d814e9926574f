from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from inventory import health, metrics

admin.site.site_header = admin.site.site_title = "Inventory"
admin.site.index_title = "Collection"
admin.site.site_url = None  # There is no other site to view: "/" leads here.

urlpatterns = [
    path("api/", include("cas.urls")),
    path("api/", include("attachments.urls")),
    path("api/", include("parts.urls")),
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("health/live", health.live, name="health-live"),
    path("health/ready", health.ready, name="health-ready"),
    path("metrics", metrics.metrics, name="metrics"),
    path("", RedirectView.as_view(url="/admin/")),
]

handler400 = "inventory.errors.bad_request"
handler403 = "inventory.errors.permission_denied"
handler404 = "inventory.errors.not_found"
handler500 = "inventory.errors.server_error"
