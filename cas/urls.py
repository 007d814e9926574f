"""Include these below the API's prefix."""

from django.urls import path

from cas.views import blob

# `path` matches slashes too, so that every malformed digest gets the same answer.
urlpatterns = [path("cas/<path:digest>", blob, name="cas-blob")]
