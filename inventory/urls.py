from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.generic import RedirectView

from accounts.login import LoginForm
from inventory import health, metrics

admin.site.site_header = admin.site.site_title = "Inventory"
admin.site.index_title = "Collection"
admin.site.enable_nav_sidebar = False  # Five entries; lists need the width more.
admin.site.login_form = LoginForm
# Every account may sign in: what it sees is what its permissions say.
admin.site.has_permission = lambda request: request.user.is_active  # type: ignore[method-assign]
admin.site.site_url = None  # There is no other site to view: "/" leads here.


def no_icon(request: HttpRequest) -> HttpResponse:
    """Browsers ask for an icon with every first page; there is none, and that is no error."""
    return HttpResponse(status=204, headers={"Cache-Control": "public, max-age=86400"})


urlpatterns = [
    path("favicon.ico", no_icon),
    path("api/", include("cas.urls")),
    path("api/", include("parts.urls")),
    path("api/", include("accounts.urls")),
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
